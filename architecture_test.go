package egress

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The floors of the house, from the ground up: see docs/architecture.md. A package
// imports from floors below its own.
const (
	engines   = iota // one machine each
	subjects         // one subject each
	waysOut          // from a name to a connection
	publicly         // what others build upon
	parents          // ways out through upstream proxies
	adapters         // what is Caddy's, in the terms of what is below
	cores            // requests behind any door
	exchanges        // requests that are forwarded, and their responses
	doors            // how clients come in
	views            // what is told
	desks            // what people ask a running Caddy
	declared         // parts of a configuration, with their words
	roof             // configuration, and the door that Caddy opens
	outside          // programs, benchmarks, tests of the whole
	equipment        // what only tests, bench and soak import
)

// room is what a package may know.
type room struct {
	floor int
	// beside are the packages of its own floor that it imports.
	beside []string
	// never are packages of lower floors that are not its business.
	never []string
	// caddy: it imports Caddy.
	caddy bool
}

const houseName = "github.com/caddy-egress/egress"

// house is all of it. A new package gets its line here, its words in docs/architecture.md,
// and a doc.go.
var house = map[string]room{
	"internal/connpool":   {floor: engines, beside: []string{"internal/tracing"}},
	"internal/dnscache":   {floor: engines},
	"internal/filewatch":  {floor: engines},
	"internal/events":     {floor: engines},
	"internal/firstmatch": {floor: engines},
	"internal/h1":         {floor: engines, beside: []string{"internal/layers"}},
	"internal/health":     {floor: engines},
	"internal/holdings":   {floor: engines},
	"internal/layers":     {floor: engines},
	"internal/listening":  {floor: engines},
	"internal/pattern":    {floor: engines},
	"internal/proxydial":  {floor: engines, beside: []string{"internal/h1", "internal/layers", "internal/timing"}},
	"internal/quantile":   {floor: engines},
	"internal/relay":      {floor: engines, beside: []string{"internal/layers"}},
	"internal/sse":        {floor: engines},
	"internal/target":     {floor: engines},
	"internal/timing":     {floor: engines},
	"internal/tracing":    {floor: engines},

	"internal/acl":         {floor: subjects, beside: []string{"internal/failure", "internal/plaintext", "internal/shared"}},
	"internal/auth":        {floor: subjects, beside: []string{"internal/failure", "internal/plaintext"}},
	"internal/descriptors": {floor: subjects},
	"internal/destination": {floor: subjects, beside: []string{"internal/failure", "internal/plaintext"}},
	"internal/failure":     {floor: subjects, beside: []string{"internal/descriptors"}},
	"internal/orders":      {floor: subjects},
	"internal/plaintext":   {floor: subjects},
	"internal/retry":       {floor: subjects},
	"internal/self":        {floor: subjects},
	"internal/settings":    {floor: subjects, beside: []string{"internal/plaintext", "internal/words"}, caddy: true},
	"internal/shared":      {floor: subjects, caddy: true},
	"internal/tunnels":     {floor: subjects, beside: []string{"internal/auth", "internal/failure", "internal/orders", "internal/shared"}},
	"internal/words":       {floor: subjects, beside: []string{"internal/plaintext"}, caddy: true},

	"internal/dial":   {floor: waysOut},
	"internal/origin": {floor: waysOut},

	"selection": {floor: publicly, caddy: true},

	"internal/upstream": {floor: parents},

	"internal/accesslog":   {floor: adapters, caddy: true},
	"internal/caddyserver": {floor: adapters, caddy: true},
	"internal/matchers":    {floor: adapters, beside: []string{"internal/caddyserver"}, caddy: true},
	"internal/sources":     {floor: adapters, caddy: true},

	"internal/core":     {floor: cores},
	"internal/exchange": {floor: exchanges},

	"internal/clientend": {floor: doors, never: []string{"internal/core", "internal/upstream"}},

	"internal/explain": {floor: views},
	"internal/metrics": {floor: views},

	"admin":          {floor: desks, caddy: true},
	"admin/commands": {floor: desks, beside: []string{"admin", "admin/top"}, caddy: true},
	"admin/top":      {floor: desks, beside: []string{"admin"}},
	"status":         {floor: desks, beside: []string{"admin"}, caddy: true},

	"internal/reach": {floor: declared, caddy: true},
	"upstreams":      {floor: declared, beside: []string{"internal/reach"}, never: []string{"internal/core", "admin"}, caddy: true},

	"": {floor: roof, caddy: true},

	"bench":          {floor: outside},
	"bench/refcaddy": {floor: outside, caddy: true},
	"cmd/caddy":      {floor: outside, caddy: true},
	"integration":    {floor: outside},

	"internal/dnscache/dnstest":       {floor: equipment},
	"internal/testkit/aclmodel":       {floor: equipment},
	"internal/testkit/faultnet":       {floor: equipment},
	"internal/testkit/fixture":        {floor: equipment, beside: []string{"internal/testkit/aclmodel"}},
	"internal/testkit/freeport":       {floor: equipment},
	"internal/testkit/netns":          {floor: equipment},
	"internal/testkit/peers":          {floor: equipment, beside: []string{"internal/testkit/freeport", "internal/testkit/testcert"}},
	"internal/testkit/peers/peertest": {floor: equipment, beside: []string{"internal/testkit/peers"}},
	"internal/testkit/raceflag":       {floor: equipment},
	"internal/testkit/soak":           {floor: equipment, beside: []string{"internal/testkit/faultnet", "internal/testkit/freeport", "internal/testkit/testcert"}},
	"internal/testkit/testcert":       {floor: equipment},
}

// TestArchitecture: imports go down only, and below the roof Caddy is known where it
// must be.
func TestArchitecture(t *testing.T) {
	seen := make(map[string]bool)
	for _, p := range listPackages(t) {
		name := inHouse(p.ImportPath)
		seen[name] = true
		r, ok := house[name]
		if !ok {
			t.Errorf("%s has no floor: give it its line in the table, and its words in docs/architecture.md", p.ImportPath)
			continue
		}
		if strings.HasPrefix(name, "internal/") && name != "internal/testkit/soak" && !strings.HasPrefix(name, "internal/testkit/raceflag") && !strings.HasSuffix(name, "test") {
			if _, err := os.Stat(filepath.Join(p.Dir, "doc.go")); err != nil {
				t.Errorf("%s has no doc.go that says what it knows and what it must never import", name)
			}
		}
		for _, path := range p.Imports {
			if strings.HasPrefix(path, "github.com/caddyserver/") && !r.caddy {
				t.Errorf("%s imports %s: it must know nothing of Caddy", name, path)
			}
			if other, ours := house[inHouse(path)]; ours && strings.HasPrefix(path, houseName) {
				if why := r.mayNot(name, inHouse(path), other); why != "" {
					t.Errorf("%s imports %s: %s", name, inHouse(path), why)
				}
			}
		}
	}
	for name := range house {
		if !seen[name] {
			t.Errorf("there is no package %q: take its line out", name)
		}
	}
}

// mayNot says why a package must not import another one, "" if it may.
func (r room) mayNot(name, imported string, other room) string {
	switch {
	case slices.Contains(r.beside, imported) && other.floor == r.floor:
		return ""
	case slices.Contains(r.never, imported):
		return "that is not its business: see its doc.go"
	case other.floor == adapters && !r.caddy:
		return "what is Caddy's is handed to what knows Caddy"
	case other.floor == equipment && r.floor != equipment && name != "bench":
		return "only tests, bench and soak import test equipment"
	case r.floor == equipment && other.floor > subjects:
		return "test equipment knows engines and subjects only"
	case other.floor >= r.floor && other.floor != equipment:
		return "imports go down, to floors below the own one"
	}
	return ""
}

type listedPackage struct {
	ImportPath, Dir string
	Imports         []string
}

// listPackages are all packages of the module.
func listPackages(t *testing.T) (list []listedPackage) {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,Imports", "./...")
	command.Env = cameWith
	out, err := command.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p listedPackage
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	if len(list) < 10 {
		t.Fatalf("%d packages: this tests nothing", len(list))
	}
	return list
}

// inHouse is the path of a package within the module, "" for the root.
func inHouse(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, houseName), "/")
}

// The rules themselves refuse what they are to refuse.
func TestArchitecture_Rules(t *testing.T) {
	for _, tc := range []struct {
		name, imported string
		may            bool
	}{
		{"", "internal/acl", true},
		{"internal/acl", "internal/target", true},
		{"internal/acl", "internal/failure", true},
		{"internal/failure", "internal/acl", false},
		{"internal/h1", "internal/target", false},
		{"internal/acl", "", false},
		{"internal/acl", "selection", false},
		{"selection", "internal/words", true},
		{"internal/relay", "internal/layers", true},
		{"internal/layers", "internal/relay", false},
		{"", "internal/testkit/freeport", false},
		{"bench", "internal/testkit/freeport", true},
		{"internal/sources", "internal/upstream", true},
		{"internal/sources", "internal/core", false},
		{"internal/core", "internal/matchers", false},
		{"", "internal/matchers", true},
		{"internal/matchers", "internal/caddyserver", true},
		{"internal/caddyserver", "internal/matchers", false},
		{"internal/clientend", "internal/exchange", true},
		{"internal/clientend", "internal/core", false},
		{"internal/testkit/faultnet", "internal/layers", true},
		{"internal/testkit/faultnet", "selection", false},
	} {
		if why := house[tc.name].mayNot(tc.name, tc.imported, house[tc.imported]); (why == "") != tc.may {
			t.Errorf("%q imports %q: %q", tc.name, tc.imported, why)
		}
	}
}
