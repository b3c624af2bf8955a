package egress

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddy-egress/egress/internal/health"
)

// This file contains the test of the numbers in docs/limits.md.

// limitsFrom are the constants that a row of docs/limits.md is about, in the order of the
// numbers there. A number that is no constant stands with the test that asserts it, as in
// `TestName 5`. Defaults of settings are not here: the reference has them.
var limitsFrom = map[string][]string{
	"fields of a request":                                            {"internal/h1.MaxFields"},
	"`Via` of a request":                                             {"internal/core.maxVia"},
	"fields of a CONNECT to an upstream":                             {"internal/proxydial.maxHead"},
	"protocols that `Upgrade` lists":                                 {"internal/exchange.maxProtocols"},
	"a destination as it is written":                                 {"internal/target.MaxAuthority"},
	"name of a destination, and a label of it":                       {"internal/target.maxName", "internal/target.maxLabel"},
	"user name, password":                                            {"internal/auth.maxUsernameBytes", "internal/auth.maxPasswordBytes"},
	"password checks that wait":                                      {"internal/auth.maxChecksWaiting"},
	"look whether a client whose check waits has left":               {"internal/auth.lookInterval"},
	"body that is kept to be sent again":                             {"internal/retry.MaxReplay"},
	"body that is read behind a refusal, HTTP/1.1":                   {"internal/exchange.lingerBytes", "internal/exchange.lingerTimeout"},
	"end of such a tunnel":                                           {"internal/tunnels.settle", "internal/tunnels.linger"},
	"tunnels at exit that do not end":                                {"internal/tunnels.overdue"},
	"HTTP/2: what a client may send ahead on a connection":           {"internal/clientend.serverConnWindow"},
	"HTTP/2: what waits in the socket for a client with a tunnel":    {"internal/clientend.clientUnsent"},
	"HTTP/2: a client that takes nothing":                            {"internal/clientend.WriteTimeout"},
	"HTTP/2: a client that takes nothing behind the end of a tunnel": {"internal/clientend.stuckTime"},
	"HTTP/2, HTTP/3: what a client that has gone has sent to its end, and the origin still gets": {"internal/clientend.maxRest", "internal/clientend.restTime"},
	"HTTP/3: tunnels whose destinations take nothing, while others wait":                         {"internal/tunnels.starvingTime", "internal/tunnels.upstreamTime"},
	"connections to origins that one connection of a client has authenticated (NTLM)":            {"internal/origin.maxPinsPerClient"},
	"request to `/egress/explain`":                                                               {"admin.maxBody"},
	"answer to an order while storage does not answer":                                           {"internal/orders.waitWithin"},
	"orders taken back that other processes with the data directory are kept from writing again": {"internal/orders.maxEnded"},
	"readers of `/egress/events`":                                                                {"admin.maxReaders"},
	"events that are remembered for them":                                                        {"internal/events.maxKept"},
	"reader of events, or of an open status page, that takes nothing":                            {"internal/sse.writeTimeout"},
	"open status pages of a handler":                                                             {"status.maxViewers"},
	"what is asked on the status page":                                                           {"status.maxForm"},
	"upstreams with a curve on the status page":                                                  {"status.maxCurves"},

	"fields of a head, and of a trailer section":               {"internal/h1.MaxFields"},
	"names that `Trailer` announces":                           {"internal/h1.MaxFields"},
	"trailer section":                                          {"internal/h1.maxTrailer"},
	"size line of a chunk, with extensions":                    {"internal/h1.maxChunkLine"},
	"the same, where 1xx come":                                 {"internal/exchange.headWaits"},
	"request body that is still sent when the answer is there": {"internal/exchange.lingerTimeout"},
	"silence within a response before the client's connection is looked at (HTTP/1.1, Linux)": {"internal/exchange.clientLook"},
	"addresses that are dialed for one connection":                                            {"internal/dial.maxAttempts", "internal/dial.maxConcurrentAttempts"},
	"addresses that TLS is tried with":                                                        {"internal/dial.maxHandshakes"},
	"addresses that failed and are tried last":                                                {"internal/dial.maxFailedAddrs", "internal/dial.failedFor"},
	"dials to one origin at once":                                                             {"..maxDialsPerHost"},
	"idle connections of all pools":                                                           {"internal/descriptors.IdleShare"},
	"descriptors that dials leave free":                                                       {"internal/descriptors.ReserveShare"},
	"origins with a record in a pool":                                                         {"..maxHosts"},
	"destinations on one path that failed lately":                                             {"internal/destination.maxDestinations", "internal/destination.forgetAfter"},
	"members that are told apart for one destination":                                         {"internal/destination.maxWays"},
	"members that are passed over for one attempt":                                            {"internal/core.mostPassed"},
	"times that a direct request is sent again":                                               {"TestRetryTable 1"},
	"answer to CONNECT: its head, with all 1xx before it":                                     {"internal/proxydial.defaultReplyHead"},
	"addresses of a destination that a `socks5` upstream is told for one attempt":             {"internal/upstream.maxTold"},
	"silence of a `socks5` upstream about an address":                                         {"internal/upstream.toldBeside"},
	"wait for further addresses when a `socks5` upstream has said no to all that are known":   {"internal/upstream.toldLate"},
	"an address family that a `socks5` upstream does not reach is told last":                  {"internal/dial.missedFor", "internal/dial.missedTrial"},
	"wait for names in a group with `socks5` and other members":                               {"internal/core.namesWait"},
	"retries in flight that are always allowed":                                               {"internal/retry.budgetMin"},
	"attempts beside a first one (`hedge`)":                                                   {"TestRetryBudget 1"},
	"dials at once for exchanges in absolute form":                                            {"..maxDialsPerHost"},
	"tunnels of one client to one destination that are being opened through it":               {"TestOpenings 4", "TestOpenings 256", "TestOpenings 8192"},
	"`Retry-After` of an upstream":                                                            {"internal/health.leastOverload", "internal/upstream.maxRetryAfter"},
	"the same of an exchange, which may be an origin's":                                       {"internal/upstream.maxRelayedOverload"},
	"destinations, and networks, whose refused credentials are remembered of an upstream":     {"internal/health.refusedKept"},
	"refusals in a minute, of what was never reached, before others are asked first":          {"internal/health.slowAfter"},
	"destinations that are remembered as reached with an upstream's credentials":              {"internal/health.maxKnown"},
	"hosts that are remembered as evidence about an upstream":                                 {"internal/health.maxSoftFails", "internal/health.suspicionWindow"},
	"time of a probe":                      {"internal/health.ProbeLimit"},
	"page that a check reads":              {"internal/upstream.maxCheckBody"},
	"such a dial":                          {"internal/proxydial.standbyDialTimeout", "internal/proxydial.defaultStandbyRetry", "internal/proxydial.maxStandbyRetry"},
	"events that wait for a handler":       {"internal/events.maxWaitingEvents"},
	"events before the configuration runs": {"internal/events.maxEarlyEvents"},

	"wait for the settings of the upstream":                                  {"internal/proxydial.defaultTLSTimeout"},
	"connections that are dialed at once for tunnels that wait":              {"internal/proxydial.maxDials"},
	"times that a CONNECT is sent again that was not looked at":              {"internal/proxydial.maxReplays"},
	"a frame, in either direction":                                           {"internal/proxydial.maxSendFrame"},
	"head of an answer, with CONTINUATION":                                   {"internal/proxydial.defaultReplyHead"},
	"answers to PING, SETTINGS and the like that the upstream does not read": {"internal/proxydial.controlLimit"},
	"bytes of a tunnel that wait for their reader":                           {"internal/proxydial.defaultWindow"},
	"bytes of all tunnels that the upstream may send ahead":                  {"internal/proxydial.connWindow"},
	"bytes that wait for the socket, and in it":                              {"internal/proxydial.outLimit", "internal/proxydial.unsentLimit"},
	"silence under tunnels before a PING":                                    {"internal/proxydial.defaultPingInterval"},
	"wait for the sign of life":                                              {"internal/proxydial.defaultPingTimeout"},
	"silence under a CONNECT before a PING, and wait for its answer":         {"internal/proxydial.defaultSignTimeout"},
	"tunnels that take the whole window and stand":                           {"internal/proxydial.defaultStarve", "internal/proxydial.defaultShareWait"},
	"connection without tunnels":                                             {"internal/proxydial.defaultIdleTimeout"},
	"last frames of a connection":                                            {"internal/proxydial.flushTimeout"},

	"time of a server for one answer":                    {"internal/dnscache.TryTimeout"},
	"times that each server is asked":                    {"internal/dnscache.rounds"},
	"a question in all":                                  {"internal/dnscache.flightTimeout"},
	"a datagram that is asked for, and one that is read": {"internal/dnscache.maxUDP", "internal/dnscache.maxDatagram"},
	"answer over HTTPS: its head":                        {"internal/dnscache.maxHTTPSHead"},
	"connections to one server over HTTPS":               {"internal/dnscache.maxHTTPSConns"},
	"idle connections to one server":                     {"internal/dnscache.maxIdleStreams", "internal/dnscache.streamIdle"},
	"aliases that are followed":                          {"internal/dnscache.maxAliases"},
	"addresses of one family":                            {"internal/dnscache.MaxAddrs"},
	"time that addresses are remembered":                 {"internal/dnscache.MinTTL", "internal/dnscache.MaxTTL"},
	"the same of the system's resolver":                  {"internal/dnscache.SystemTTL"},
	"time that a missing address is remembered":          {"internal/dnscache.MinNegativeTTL", "internal/dnscache.MaxNegativeTTL"},
	"time that silence about one family is remembered":   {"internal/dnscache.FailureTTL", "internal/dnscache.SilentTTL"},
	"use of an answer whose time is over":                {"internal/dnscache.StaleFor"},
	"names that are remembered":                          {"internal/dnscache.DefaultMaxNames"},
	"questions under way":                                {"..questionShare", "internal/dnscache.DefaultMaxQuestions"},
	"of them, those that nobody waits for any more":      {"internal/dnscache.leftShare"},
	"questions that a server is checked with":            {"internal/dnscache.knownQuestions", "internal/dnscache.missesToCheck", "internal/dnscache.outdoneToCheck"},

	"line of a file of rules":                   {"internal/acl.maxSubjectLine"},
	"line of a list of upstreams":               {"internal/upstream.maxListLine"},
	"hosts file":                                {"internal/dnscache.maxHostsFile", "internal/dnscache.hostsCheck", "internal/dnscache.hostsSettle"},
	"a file that changes: left alone for":       {"internal/filewatch.settle"},
	"a file that is written without a pause":    {"internal/filewatch.patience"},
	"look at a file without an event":           {"internal/filewatch.lookEvery"},
	"a file that is gone":                       {"internal/filewatch.settle"},
	"a file that cannot be used is tried again": {"internal/filewatch.againFirst", "internal/filewatch.againMax"},
	"a name that `a` or `srv` looks up":         {"internal/sources.minRefresh", "internal/sources.lookUpFor"},
	"a dynamic source of another module":        {"internal/sources.askOthers", "internal/sources.askOthersFor"},
	"a dynamic source that fails":               {"internal/upstream.askAgainFirst", "internal/upstream.askAgainMax"},
}

// Each number in the column of the bounds of docs/limits.md is that of the code: of a
// constant, or the default of the setting beside it.
func TestDocuments_Limits(t *testing.T) {
	_, readme := snippets(t)
	defaults := make(map[string]string)
	for _, w := range referenceWords(t, readme) {
		block := "egress"
		if len(w.path) > 0 {
			block = w.path[len(w.path)-1]
		}
		if key := block + " " + w.word; defaults[key] == "" {
			defaults[key] = w.args
		}
	}
	left := maps.Clone(limitsFrom)
	consts := make(packageConsts)
	rows := 0
	for line := range strings.Lines(readFile(t, "docs/limits.md")) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 4 || !strings.HasPrefix(cells[0], "| ") || cells[0] == "| what" || cells[0] == "| ---" {
			continue
		}
		rows++
		what, bound, setting := strings.TrimPrefix(cells[0], "| "), cells[1], cells[2]
		want, known := limitsFrom[what]
		delete(left, what)
		word := strings.Trim(setting, "`")
		value, isWord := defaults[word]
		switch {
		case what == "active checks of a group at once":
			want = []string{fmt.Sprint("= ", health.DefaultCheckerConfig().Concurrency)}
		case strings.HasPrefix(setting, "`") && !isWord:
			t.Errorf("%s: the reference has no %s", what, setting)
		case isWord && (value == "off" || strings.HasPrefix(value, "<")):
			if bound != "none" {
				t.Errorf("%s: %q, and %s is %s", what, bound, setting, value)
			}
		case isWord:
			want = append([]string{"= " + value}, want...)
		case !known && anyQuantity.MatchString(notCounted.ReplaceAllString(bound, "")):
			t.Errorf("%s: nothing says where %q is from", what, bound)
		}
		checkLimit(t, consts, what, bound, want)
	}
	for what := range left {
		t.Errorf("there is no row for %q", what)
	}
	if rows < 100 {
		t.Errorf("only %d rows", rows)
	}
}

// anyQuantity is a number with its unit.
var anyQuantity = regexp.MustCompile(`\b([0-9][0-9,]*)(%| ?(?:KiB|MiB|ms|min|s|h|m)\b)?`)

// quantity is a number in one unit: nanoseconds, bytes, or itself.
func quantity(m []string) float64 {
	n, _ := strconv.ParseFloat(strings.ReplaceAll(m[1], ",", ""), 64)
	return n * map[string]float64{
		"": 1, "%": 1, "KiB": 1 << 10, "MiB": 1 << 20,
		"ms": 1e6, "s": 1e9, "min": 60e9, "m": 60e9, "h": 3600e9,
	}[strings.TrimSpace(m[2])]
}

// notCounted are numbers in bounds that are names.
var notCounted = regexp.MustCompile(`HTTP/[0-9.]+|RFC [0-9]+|\b[1-5]xx\b|less a second`)

func checkLimit(t *testing.T, consts packageConsts, what, bound string, want []string) {
	t.Helper()
	got := anyQuantity.FindAllStringSubmatch(notCounted.ReplaceAllString(bound, ""), -1)
	each := strings.HasSuffix(bound, " each") && len(got) == 1
	if len(got) != len(want) && !each {
		t.Errorf("%s: %d numbers in %q, and %d are known: %v", what, len(got), bound, len(want), want)
		return
	}
	for i, from := range want {
		number := got[min(i, len(got)-1)]
		is, err := consts.value(from)
		if err != nil {
			t.Errorf("%s: %v", what, err)
		} else if quantity(number) != is {
			t.Errorf("%s: %s, and %s is %v", what, number[0], from, is)
		}
	}
}

// packageConsts are the constants of packages, by their directories.
type packageConsts map[string]*types.Scope

// value is that of `directory.constant`, of `= number`, or of `TestName number` where
// there is such a test.
func (p packageConsts) value(from string) (float64, error) {
	if number, ok := strings.CutPrefix(from, "= "); ok {
		return quantity(anyQuantity.FindStringSubmatch(number)), nil
	}
	if test, number, ok := strings.Cut(from, " "); ok {
		if !hasTest(test) {
			return 0, fmt.Errorf("there is no %s", test)
		}
		return quantity(anyQuantity.FindStringSubmatch(number)), nil
	}
	dot := strings.LastIndexByte(from, '.')
	dir, name := from[:dot], from[dot+1:]
	if p[dir] == nil {
		p[dir] = constsIn(dir)
	}
	c, ok := p[dir].Lookup(name).(*types.Const)
	if !ok {
		return 0, fmt.Errorf("there is no constant %s", from)
	}
	f, _ := constant.Float64Val(constant.ToFloat(c.Val()))
	return f, nil
}

// constsIn has the constants of a package, as far as they can be known without what it
// imports, but for the durations of time.
func constsIn(dir string) *types.Scope {
	fset := token.NewFileSet()
	files, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	var parsed []*ast.File
	for _, path := range files {
		if f, err := parser.ParseFile(fset, path, nil, 0); err == nil && !strings.HasSuffix(path, "_test.go") {
			parsed = append(parsed, f)
		}
	}
	cfg := types.Config{Importer: onlyTime{}, Error: func(error) {}, IgnoreFuncBodies: true}
	pkg, _ := cfg.Check(dir, fset, parsed, nil)
	return pkg.Scope()
}

// onlyTime imports the units of time, and of all others nothing.
type onlyTime struct{}

func (onlyTime) Import(path string) (*types.Package, error) {
	pkg := types.NewPackage(path, filepath.Base(path))
	if path == "time" {
		duration := types.NewNamed(types.NewTypeName(token.NoPos, pkg, "Duration", nil), types.Typ[types.Int64], nil)
		pkg.Scope().Insert(duration.Obj())
		for name, d := range map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour} {
			pkg.Scope().Insert(types.NewConst(token.NoPos, pkg, name, duration, constant.MakeInt64(int64(d))))
		}
	}
	pkg.MarkComplete()
	return pkg, nil
}

// hasTest reports whether the name of a test of this repository begins like that.
func hasTest(name string) bool {
	files, _ := filepath.Glob("internal/*/*_test.go")
	for _, path := range files {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), "\nfunc "+name) {
			return true
		}
	}
	return false
}
