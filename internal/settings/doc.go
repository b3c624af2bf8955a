// Package settings is what holds for every setting of a configuration, whatever it is about:
// how its strings take placeholders, and which durations nobody can mean.
//
// It walks the structures of the configuration by their JSON names, and knows no field of
// them. It knows Caddy's replacer, and of this project words and plaintext alone.
package settings
