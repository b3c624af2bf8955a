package exchange

import "github.com/caddy-egress/egress/internal/h1"

// relaysOn reports whether the upstream may go on relaying behind the response, so that the
// next request on the connection could get to the origin of this one. Of an upstream that
// does not name itself that is possible behind a response that has no Content-Length or none
// but 0, and behind an informational one (see upstream.Member.NoteRelay).
func (t *Exchange) relaysOn(resp h1.Response) bool {
	if !t.Absolute() {
		return false
	}
	m := t.Ways.Current.Member
	return m.Single() || !m.Named() && (t.interim || resp.Framing != h1.ByLength || resp.Length == 0)
}
