// Package health decides which upstream proxies may be used. It holds state
// machines that are pure (they have no clock and no goroutine of their own; time
// is passed in, and each step tells whether the state changed, so that only edges
// are logged) and the two types that compose them, plus the engine of active
// checks. It never imports Caddy.
//
// # The model in words
//
// The health of an upstream has three parts. An upstream is in rotation when all
// three agree:
//
//   - admin, what the operator wants: ready, drain (no new requests, checks go on)
//     or maint (no new requests, no checks);
//   - active, what checks found: unknown, up or down. Unknown is in rotation; the
//     first result decides; after that it takes Rise passes or Fall failures in a
//     row, and an opposite result starts the count anew;
//   - circuit, what real requests found: closed, open (out of rotation for a
//     while) or half-open (a request is under way as the probe).
//
// Every request ends with one [Observation], which says what it tells about the
// upstream, and only about the upstream: a dead destination must never take a
// healthy upstream out. The circuit opens after enough failures in a row, or when
// too few requests of the last Window succeeded, for OpenFor × n; n grows with
// each opening (but for a failed probe while nobody in the group serves) and shrinks by one for each minute of health. After that time one
// live request is the probe ([Group.TryProbe]), one that can be repeated elsewhere if
// any comes. Its success closes the circuit, and its failure opens it for longer. One
// that ends without a result, or has none within [ProbeLimit], opens it again for as
// long as before, and at least for as long as it has waited. The client whose probe that was
// leaves the next one to others for a while, and beside one that takes its time another
// client's may go.
//
// An upstream that refuses our credentials (407) for what it has reached with them before
// (or logins and checks, three times in a row) has an
// authentication fault: its circuit is open for that reason. That is neither
// subject to the cap nor ignored in panic, since every further attempt may lock
// the account. It ends with a probe, or with an active check that carries the
// credentials ([CheckerConfig.ProvesAuth]).
//
// What an exchange brings, or the end of the connection after a CONNECT, may be the
// destination's doing, which the upstream has only passed on. Where one destination fails in such a way through several members, with
// no answer between, it counts as suspicion of those that have answered for others
// lately ([Observation.Relayed]). And while all that an origin may have brought about comes
// from one client ([Observation.Client]), it takes no upstream out that serves another one.
//
// An upstream that is overloaded (429, or 503 with Retry-After) keeps a tenth of
// its weight for that time and gets the rest back over SlowStart; so does one that
// comes back after a failure.
//
// # Groups
//
// A [Group] keeps ejection (open circuits) from doing more harm than good. A
// circuit opens only if afterwards no more than MaxEjected of the group is ejected
// and another member is in rotation; where that forbids it, the member stays in
// rotation, comes after all others in every tier ([Tier.LastResort]) and has a trial now
// and then, and the next failure after a second asks again. Where nobody in rotation is
// better, those with an open circuit stand beside it. When less than
// PanicBelow of the group is in rotation, ejection is ignored (panic): then
// members with an open circuit are picked as well, but none whose last connect or
// check failed while another is up. What the operator, active checks and refused
// credentials took out stays out. Members that are not ready (drain, maint) are no
// part of the group in these counts.
//
// Suspicion catches an upstream that is alive with a dead uplink: it answers every
// CONNECT with an error that blames nobody. When five or more distinct
// destinations failed like that within 30 seconds with no success between, the
// group asks for an active check. Only that check failing, or three of those
// destinations succeeding on another path, opens the circuit.
//
// # Active checks
//
// A [Checker] runs the checks of one group. What it learns is kept in the
// [Upstream], so that the Checker of the next configuration goes on where the last
// one stopped. All members failing the same targets at once is inconclusive: the
// target is down, not they. To know, a failure is held until another member was
// asked after it: if that one passes, the failure counts; if nobody is left to
// ask, none counts.
//
// It is an engine: it imports nothing of this project, and nothing of Caddy.
package health
