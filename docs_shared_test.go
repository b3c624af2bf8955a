package egress

import (
	"strings"
	"testing"
)

// sharedTests are the tests of what users share, by the rows of the table in
// docs/limits.md: each with its file, below it.
var sharedTests = map[string][]string{
	"connections to an origin, dials to it, and the queue for it": {
		"integration/limits_client_test.go TestLimits_PerClient", "integration/limits_client_test.go TestLimits_PerUser",
	},
	"descriptors of the process":             {"integration/tunnel_limits_test.go TestTunnelLimits_PerClient", "descriptors_unix_test.go TestDescriptorPressure"},
	"questions to DNS servers":               {"internal/dnscache/cache_test.go TestMaxQuestions_NoTurn", "internal/dnscache/cache_test.go TestCacheLeftIsBounded"},
	"places for slow password checks":        {"internal/auth/queue_test.go TestClientsTakeTurns", "internal/auth/queue_test.go TestPlacesAreShared"},
	"an HTTP/2 connection to an upstream":    {"internal/proxydial/h2share_test.go TestH2StalledTunnel", "internal/proxydial/h2share_test.go TestH2ExhaustedConnection"},
	"bytes that wait in memory":              {"integration/overload_linux_test.go TestOverload_SlowReaders", "integration/overload_linux_test.go TestOverload_SlowWriters"},
	"retries of a group":                     {"internal/retry/retry_test.go TestRetryBudget"},
	"the health of an upstream":              {"internal/upstream/blame_producers_test.go TestBlame_Producers", "internal/health/client_test.go TestWeak_OneClient"},
	"the circuit of a destination":           {"internal/destination/circuits_test.go TestCircuitQuestionCountsOnce", "internal/destination/circuits_test.go TestCircuitOfAttemptsBeside"},
	"the 10,000 destinations with a circuit": {"internal/destination/circuits_test.go TestCircuitTracksSoMany"},
	"names that are remembered":              {"internal/dnscache/cache_test.go TestCacheEvictsNegativeFirst"},
	"addresses that failed":                  {"internal/dial/candidates_test.go TestFailedAddrs"},
	"TLS sessions":                           {"internal/dial/tls_test.go TestDialTLS_Sessions", "internal/proxydial/sessions_test.go TestSessions"},
	"kernel pipes of tunnels (Linux), 256":   {"internal/relay/pipe_linux_test.go TestPipePoolIsBounded", "internal/relay/relay_linux_test.go TestWithoutPipes"},
	"the log":                                {"limits_log_test.go TestLimitLog"},
}

// Each row of what users share has a test, which there is.
func TestDocuments_Shared(t *testing.T) {
	_, table, _ := strings.Cut(readFile(t, "docs/limits.md"), "## What users share")
	table, _, _ = strings.Cut(table, "\n## ")
	seen := 0
	for line := range strings.Lines(table) {
		what, _, isRow := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		if !isRow || what == "what is shared" || what == "---" {
			continue
		}
		seen++
		tests := sharedTests[what]
		if len(tests) == 0 {
			t.Errorf("%s: no test", what)
		}
		for _, test := range tests {
			file, name, _ := strings.Cut(test, " ")
			if !strings.Contains(readFile(t, file), "\nfunc "+name+"(t *testing.T)") {
				t.Errorf("%s: %s has no %s", what, file, name)
			}
		}
	}
	if seen != len(sharedTests) {
		t.Errorf("%d rows, and tests of %d", seen, len(sharedTests))
	}
}
