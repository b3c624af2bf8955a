package upstreams

import (
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/upstream"
	"github.com/caddy-egress/egress/internal/words"
)

// This file contains the words of the Caddyfile for the checks of a group.

func (g *Group) addHealthWords(d *caddyfile.Dispenser, parse map[string]func() error) {
	active := func() *ActiveHealthChecks {
		if g.HealthChecks == nil {
			g.HealthChecks = &HealthChecks{Active: new(ActiveHealthChecks)}
		}
		return g.HealthChecks.Active
	}
	parse["health_check"] = func() error {
		if !d.NextArg() {
			return d.ArgErr()
		}
		if d.Val() == "off" {
			if d.NextArg() {
				return d.ArgErr()
			}
			return nil
		}
		c := active()
		if c.Type = d.Val(); !slices.Contains(checkTypes, c.Type) {
			return d.Errf("bad health_check '%s': one of %v, or off", plaintext.Escaped(c.Type), checkTypes)
		}
		for _, t := range d.RemainingArgs() {
			if !strings.Contains(t, "{") {
				if err := validCheckTarget(c.Type, t); err != nil {
					return d.Errf("health_check: target '%s': %v", plaintext.Escaped(t), err)
				}
			}
			c.Targets = append(c.Targets, t)
		}
		if err := c.checkTargetCount(); err != nil {
			return d.Errf("health_check: targets: %v", err)
		}
		return nil
	}
	parse["health_interval"] = func() error { return words.DurationFrom(d, &active().Interval, leastInterval, checksOff) }
	parse["health_timeout"] = func() error { return words.Duration(d, &active().Timeout, checksOff) }
	parse["health_passes"] = func() error { return words.Count(d, &active().Passes, checksOff) }
	parse["health_fails"] = func() error { return words.Count(d, &active().Fails, checksOff) }
	parse["health_status"] = func() error { return words.Status(d, &active().ExpectStatus) }
	parse["health_body"] = func() error {
		return words.Checked(d, &active().ExpectBody, func(s string) error {
			_, err := regexp.Compile(s)
			return err
		})
	}
	parse["health_headers"] = func() error {
		if d.NextArg() {
			return d.Errf("unexpected argument '%s': health_headers takes a block", plaintext.Escaped(d.Val()))
		}
		for nesting := d.Nesting(); d.NextBlock(nesting); {
			name, values := d.Val(), d.RemainingArgs()
			if len(values) == 0 {
				return d.Errf("health_headers: %s has no value", plaintext.Escaped(name))
			}
			if active().Headers == nil {
				active().Headers = make(http.Header)
			}
			for _, v := range values {
				if err := checkField(name, v); err != nil && !words.HasPlaceholder(name) && !words.HasPlaceholder(v) {
					return d.Errf("health_headers: %v", err)
				}
				active().Headers.Add(name, v)
			}
		}
		return nil
	}
	g.noteHealthWords(d, parse)
}

// noteHealthWords has the words about the checks remember where they stand, for checkHealth.
func (g *Group) noteHealthWords(d *caddyfile.Dispenser, parse map[string]func() error) {
	for _, word := range [...]string{
		"health_status", "health_body", "health_headers", "health_interval", "health_timeout", "health_passes", "health_fails",
	} {
		read := parse[word]
		parse[word] = func() error {
			g.healthWords = append(g.healthWords, *d)
			return read()
		}
	}
}

// checkHealth refuses words about checks that there are not, or that are of another type.
func (g *Group) checkHealth() error {
	for _, at := range g.healthWords {
		word := at.Val()
		switch c := g.HealthChecks.Active; {
		case c.Type == "":
			return at.Errf("%s: there is no health_check", word)
		case c.Type != upstream.CheckHTTP && slices.Contains([]string{"health_status", "health_body", "health_headers"}, word):
			return at.Errf("%s: is for health_check http, not %s", word, c.Type)
		}
	}
	return nil
}
