// Package selection chooses the upstream proxy of a request: the policies, each a Caddy
// module in the namespace http.egress.selection_policies, and what they see and answer.
//
// selection.go has what everybody needs who writes a policy of their own. foresee.go
// tells what a policy would answer without a turn being taken.
//
// It knows members by their interface only: nothing of groups, health or connections.
package selection
