package shared

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Digest is the same for the same values. They hold credentials, so nothing of
// them may be seen in it.
func Digest(values ...any) string {
	sum, err := DigestOf(values...)
	if err != nil {
		panic(err) // strings, numbers and maps of these
	}
	return sum
}

// DigestOf is digest of values that hold JSON of the operator's.
func DigestOf(values ...any) (string, error) {
	b, err := json.Marshal(values)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}
