package main

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-egress/egress"
)

// asCaddy makes this binary the command caddy: the tests run it again, so that what
// they test has the race detector if they have.
const asCaddy = "EGRESS_SOAK_CADDY"

func TestMain(m *testing.M) {
	if os.Getenv(asCaddy) != "" {
		caddycmd.Main()
		return
	}
	os.Setenv(asCaddy, "1") // for the children
	os.Exit(m.Run())
}

// The short form of both modes.
func TestRun(t *testing.T) {
	for _, o := range []options{
		{mode: modeFaults, seed: 1, length: 5 * time.Second, rate: 40, reload: 2 * time.Second},
		{mode: modeSoak, seed: 2, length: 4 * time.Second, rate: 40, reload: 2 * time.Second, kill: 2 * time.Second},
	} {
		t.Run(fmt.Sprintf("%s with seed %d", o.mode, o.seed), func(t *testing.T) {
			t.Parallel() // they wait most of the time
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			o.binary, o.dir = []string{self}, t.TempDir()
			o.patience, o.calm = 10*time.Second, 60
			res, err := run(t.Context(), o, func(s string) { t.Log(s) })
			if err != nil {
				t.Fatal(err)
			}
			var report bytes.Buffer
			res.report(&report)
			t.Log(report.String())
			if !res.good() {
				t.Fail()
			}
			if res.reloads == 0 || o.mode == modeSoak && res.kills == 0 || res.tally.whole < 50 {
				t.Errorf("%d reloads, %d kills, %d whole: that proves nothing", res.reloads, res.kills, res.tally.whole)
			}
		})
	}
}
