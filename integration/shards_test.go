package integration

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Caddy is one per process, so its tests run one after the other, and most of them
// mostly wait. Whoever runs all of them therefore runs them in several processes at
// once; whoever asks for some of them (-run), or for profiles and the like, has them
// in one.

// shards is how many processes.
const shards = 3

// shardVar is set in the environment of each of them.
const shardVar = "EGRESS_TEST_SHARD"

// sharded reports whether this process is to start the others.
func sharded() bool {
	all := os.Getenv(shardVar) == ""
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "test.timeout", "test.v", "test.paniconexit0", "test.testlogfile", "test.failfast", "test.fullpath", "test.short":
		case "test.count":
			all = all && f.Value.String() == "1"
		default:
			all = false
		}
	})
	return all
}

// runShards runs all tests, and returns the exit code. With -v the output of one process is
// shown as it comes, that of the others behind it; else only that of those that failed. The
// last lines name what failed: whoever sees the end only sees that.
func runShards() int {
	list, err := exec.Command(os.Args[0], "-test.list", ".").Output()
	if err != nil {
		fmt.Fprintf(os.Stderr, "listing the tests: %v\n", err)
		return 1
	}
	var names [shards][]string
	for i, name := range strings.Fields(string(list)) {
		names[i%shards] = append(names[i%shards], name)
	}
	// A test log would have the files that one of the processes opened, and go
	// would take the result of all for good as long as those stay.
	args := slices.DeleteFunc(slices.Clone(os.Args[1:]), func(arg string) bool {
		return strings.HasPrefix(strings.TrimLeft(arg, "-"), "test.testlogfile")
	})
	var running sync.WaitGroup
	var output [shards]bytes.Buffer
	var failed [shards]error
	for i := range shards {
		cmd := exec.Command(os.Args[0], append(args, "-test.run=^("+strings.Join(names[i], "|")+")$")...)
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", shardVar, i+1))
		out := io.Writer(&output[i])
		if i == 0 && testing.Verbose() {
			out = io.MultiWriter(os.Stdout, out)
		}
		cmd.Stdout, cmd.Stderr = out, out
		running.Go(func() { failed[i] = cmd.Run() })
	}
	running.Wait()
	for i := range shards {
		if testing.Verbose() && i > 0 || !testing.Verbose() && failed[i] != nil {
			os.Stdout.Write(output[i].Bytes())
		}
	}
	code := 0
	for i := range shards {
		if failed[i] != nil {
			fmt.Printf("process %d of %d: %v\n", i+1, shards, failed[i])
			fmt.Print(strings.Join(failures(output[i].String()), ""))
			code = 1
		}
	}
	return code
}

// failures are the lines of the output of tests that say what failed.
func failures(output string) (lines []string) {
	for line := range strings.Lines(output) {
		for _, begins := range []string{"--- FAIL", "panic: ", "fatal error: ", "WARNING: DATA RACE", "testing: race"} {
			if strings.HasPrefix(strings.TrimLeft(line, " "), begins) {
				lines = append(lines, line)
			}
		}
	}
	return lines
}
