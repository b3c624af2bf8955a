package integration

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// This file contains a driver of Debian's Chromium, without a window, over the protocol of
// its developer tools.

// browser is a page in a Chromium.
type browser struct {
	t       *testing.T
	conn    *websocket.Conn
	session string

	mu      sync.Mutex
	last    int                         // number of the last command; guarded by mu
	waiting map[int]chan devtoolsAnswer // guarded by mu
	said    []string                    // what its console and its audits said; guarded by mu
}

type devtoolsAnswer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// openBrowser starts a Chromium. Where there is none, the test is skipped, or fails with
// EGRESS_REQUIRE_PEERS=1.
func openBrowser(t *testing.T) *browser {
	t.Helper()
	program, err := exec.LookPath("chromium")
	switch {
	case err != nil && os.Getenv("EGRESS_REQUIRE_PEERS") == "1":
		t.Fatal("chromium is not installed")
	case err != nil:
		t.Skip("chromium is not installed")
	}
	profile, err := os.MkdirTemp("", "egress-chromium-")
	if err != nil {
		t.Fatal(err)
	}
	ctx, kill := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions", "--no-proxy-server",
		"--user-data-dir="+profile, "--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank")
	cmd.Env = append(os.Environ(), "HOME="+profile)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kill()
		_ = cmd.Wait()
		for range 20 { // its children write a moment longer
			if os.RemoveAll(profile) == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	at := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if _, url, ok := strings.Cut(lines.Text(), "DevTools listening on "); ok {
				at <- url
				_, _ = io.Copy(io.Discard, stderr)
				return
			}
		}
		close(at)
	}()
	conn, err := websocket.Dial(await(t, at, "Chromium to listen"), "", "http://localhost/")
	if err != nil {
		t.Fatal(err)
	}
	conn.MaxPayloadBytes = 64 << 20
	b := &browser{t: t, conn: conn, waiting: make(map[int]chan devtoolsAnswer)}
	t.Cleanup(func() { conn.Close() })
	go b.read()
	var target struct{ TargetID string }
	b.do("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.do("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Audits"} {
		b.do(domain+".enable", nil, nil)
	}
	b.do("Page.addScriptToEvaluateOnNewDocument", map[string]any{"source": `
		window.violations = [];
		document.addEventListener("securitypolicyviolation", (e) => violations.push(e.violatedDirective + " " + e.blockedURI));`}, nil)
	return b
}

func (b *browser) read() {
	for {
		var message struct {
			ID     int
			Method string
			Params json.RawMessage
			devtoolsAnswer
		}
		if err := websocket.JSON.Receive(b.conn, &message); err != nil {
			return
		}
		b.mu.Lock()
		switch {
		case message.ID != 0:
			b.waiting[message.ID] <- message.devtoolsAnswer
			delete(b.waiting, message.ID)
		case bytes.Contains(message.Params, []byte("NavigationEntryMarkedSkippable")):
			// A form that nobody has touched was sent, by a test.
		case message.Method == "Log.entryAdded" || message.Method == "Audits.issueAdded" || message.Method == "Runtime.exceptionThrown":
			b.said = append(b.said, message.Method+" "+string(message.Params))
		}
		b.mu.Unlock()
	}
}

// do has the browser do something.
func (b *browser) do(method string, params map[string]any, into any) {
	b.t.Helper()
	answer := make(chan devtoolsAnswer, 1)
	b.mu.Lock()
	b.last++
	id := b.last
	b.waiting[id] = answer
	b.mu.Unlock()
	command := map[string]any{"id": id, "method": method}
	if params != nil {
		command["params"] = params
	}
	if b.session != "" {
		command["sessionId"] = b.session
	}
	if err := websocket.JSON.Send(b.conn, command); err != nil {
		b.t.Fatal(err)
	}
	got := await(b.t, answer, method)
	if got.Error != nil && strings.Contains(got.Error.Message, "navigated") {
		b.do(method, params, into) // the page was left meanwhile, for the one that is asked now
		return
	}
	if got.Error != nil {
		b.t.Fatalf("%s: %s", method, got.Error.Message)
	}
	if into != nil {
		if err := json.Unmarshal(got.Result, into); err != nil {
			b.t.Fatalf("%s: %v\n%s", method, err, got.Result)
		}
	}
}

// eval evaluates JavaScript in the page, and waits for what it promises.
func (b *browser) eval(script string, into any) {
	b.t.Helper()
	var out struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	b.do("Runtime.evaluate", map[string]any{"expression": script, "awaitPromise": true, "returnByValue": true}, &out)
	if out.ExceptionDetails != nil {
		b.t.Fatalf("%.200s: %s", script, out.ExceptionDetails)
	}
	if into != nil {
		if err := json.Unmarshal(out.Result.Value, into); err != nil {
			b.t.Fatalf("%.200s: %v: %s", script, err, out.Result.Value)
		}
	}
}

// open loads a page, and waits until it has loaded.
func (b *browser) open(url string) {
	b.t.Helper()
	var navigated struct{ ErrorText string }
	b.do("Page.navigate", map[string]any{"url": url}, &navigated)
	if navigated.ErrorText != "" {
		b.t.Fatalf("%s: %s", url, navigated.ErrorText)
	}
	b.eval(`new Promise((ok) => document.readyState === "complete" ? ok() : addEventListener("load", () => ok()))`, nil)
}

// until waits until a condition holds in the page, which is asked whenever the page changes.
func (b *browser) until(condition string) {
	b.t.Helper()
	b.eval(fmt.Sprintf(`new Promise((ok) => {
		const holds = () => { if (%s) { watch.disconnect(); ok(true); } };
		const watch = new MutationObserver(holds);
		watch.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
		holds();
	})`, condition), nil)
}

// complaints are what the browser has found wrong with the page.
func (b *browser) complaints() []string {
	b.t.Helper()
	var violations []string
	b.eval("violations", &violations)
	b.mu.Lock()
	defer b.mu.Unlock()
	return append(violations, b.said...)
}
