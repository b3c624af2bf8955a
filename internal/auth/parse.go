package auth

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"strings"
)

// Failure says why a request is not authenticated, in the words of the placeholder
// {http.egress.auth_error}. It is empty on success.
type Failure string

// The failures.
const (
	Missing     Failure = "missing"      // no Proxy-Authorization
	Malformed   Failure = "malformed"    // doubled, too long, another scheme, or not base64 of user:password
	UnknownUser Failure = "unknown_user" // well-formed, but nobody of that name
	BadPassword Failure = "bad_password" // a user of ours with another password
)

// What a client sends is limited before it is decoded and hashed. No person types more,
// and tokens used as passwords fit.
const (
	maxUsernameBytes = 256
	maxPasswordBytes = 1024
)

// parse returns the user and the password in the Proxy-Authorization field of header.
// RFC 7617 §2: the password may contain colons, the user may not.
func parse(header http.Header) (user, password []byte, failed Failure) {
	values := header["Proxy-Authorization"]
	if len(values) == 0 {
		return nil, nil, Missing
	}
	if len(values) > 1 {
		// Whoever comes before or after us may choose the other one.
		return nil, nil, Malformed
	}
	scheme, encoded, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Basic") {
		return nil, nil, Malformed
	}
	encoded = strings.Trim(encoded, " ")
	if len(encoded) > base64.StdEncoding.EncodedLen(maxUsernameBytes+1+maxPasswordBytes) {
		return nil, nil, Malformed
	}
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, nil, Malformed
	}
	colon := bytes.IndexByte(decoded, ':')
	if colon < 0 || colon > maxUsernameBytes || len(decoded)-colon-1 > maxPasswordBytes {
		return nil, nil, Malformed
	}
	return decoded[:colon], decoded[colon+1:], ""
}
