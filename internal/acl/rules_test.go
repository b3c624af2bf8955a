package acl

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// watchedRules are rules that follow their files, with what they log.
type watchedRules struct {
	*Rules
	logs    chan observer.LoggedEntry
	changes chan struct{}
	events  chan string // name: what is wrong
}

func watchRules(t *testing.T, rules ...Rule) watchedRules {
	t.Helper()
	w := watchedRules{logs: make(chan observer.LoggedEntry, 100), changes: make(chan struct{}, 100), events: make(chan string, 100)}
	logger := zap.New(entryChan{zapcore.InfoLevel, w.logs})
	r, err := NewRules(rules, nil, NewHits(), logger)
	if err != nil {
		t.Fatal(err)
	}
	w.Rules = r
	r.Follow(func() { w.changes <- struct{}{} }, func(event string, data map[string]any) {
		w.events <- fmt.Sprintf("%s %v", event, data["error"])
	})
	t.Cleanup(r.Stop)
	return w
}

// entryChan is a core that sends what is logged.
type entryChan struct {
	zapcore.LevelEnabler
	c chan observer.LoggedEntry
}

func (c entryChan) With([]zapcore.Field) zapcore.Core { return c }
func (c entryChan) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return to.AddCore(e, c)
}

func (c entryChan) Write(e zapcore.Entry, fields []zapcore.Field) error {
	c.c <- observer.LoggedEntry{Entry: e, Context: fields}
	return nil
}
func (c entryChan) Sync() error { return nil }

// line waits for a line of a level.
func (w watchedRules) line(t *testing.T, level zapcore.Level) observer.LoggedEntry {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		select {
		case e := <-w.logs:
			if e.Level == level {
				return e
			}
			t.Logf("also logged: %s %v", e.Message, e.ContextMap())
		case <-timeout:
			t.Fatalf("no line of level %s", level)
		}
	}
}

func (w watchedRules) allows(t *testing.T, dest string) bool {
	t.Helper()
	return w.Now().CheckTarget(mustTarget(t, dest)) == nil
}

func TestAccessRules_FollowFiles(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	path := subjectFile(t, "one.example\n10.0.0.0/8\n")
	w := watchRules(t, Rule{Files: []string{path, path}})
	defer w.Stop()
	loaded := w.line(t, zapcore.InfoLevel)
	if m := loaded.ContextMap(); loaded.Message != "access rules loaded from files" || m["from_files"] != int64(4) || m["names"] != int64(1) || m["prefixes"] != int64(1) {
		t.Errorf("logged %s %v", loaded.Message, loaded.ContextMap())
	}
	if len(w.watchers) != 1 {
		t.Errorf("%d watches of one file", len(w.watchers))
	}
	if w.allows(t, "one.example") || !w.allows(t, "two.example") {
		t.Error("the first list is not in force")
	}

	writeFile(t, path, "two.example\nthree.example\n")
	changed := w.line(t, zapcore.InfoLevel)
	if m := changed.ContextMap(); changed.Message != "access rules changed" || m["changed"] != path || m["from_files"] != int64(4) || m["names"] != int64(2) {
		t.Errorf("logged %s %v", changed.Message, changed.ContextMap())
	}
	<-w.changes
	if !w.allows(t, "one.example") || w.allows(t, "two.example") {
		t.Error("the second list is not in force")
	}

	writeFile(t, path, "one.example\n\nthree example\n")
	failed := w.line(t, zapcore.ErrorLevel)
	if m := failed.ContextMap(); failed.Message != "access rules cannot be read; the old ones stay" || m["changed"] != path ||
		m["error"] != "acl[0]: "+path+":3: subject 'three example': it has a space" {
		t.Errorf("logged %s %v", failed.Message, failed.ContextMap())
	}
	if !w.allows(t, "one.example") || w.allows(t, "two.example") {
		t.Error("a bad file has changed the list")
	}

	writeFile(t, path, "one.example\n") // and back
	w.line(t, zapcore.InfoLevel)
	<-w.changes
	if w.allows(t, "one.example") || !w.allows(t, "two.example") {
		t.Error("the last list is not in force")
	}
	select {
	case <-w.changes:
		t.Error("a change was told of that was none")
	default:
	}
}

// A file that was cut off opens nothing that it denied: it must say by a comment that it
// shall have no subjects. One that was blank before keeps nobody from changing others.
func TestAccessRules_Emptied(t *testing.T) {
	path, other := subjectFile(t, "one.example\n"), subjectFile(t, "\n")
	w := watchRules(t, Rule{Files: []string{path}}, Rule{Files: []string{other}})
	w.line(t, zapcore.InfoLevel)
	for _, blank := range []string{"", "\ufeff \n\n"} {
		writeFile(t, path, blank)
		failed := w.line(t, zapcore.ErrorLevel)
		if m := failed.ContextMap(); failed.Message != "access rules cannot be read; the old ones stay" ||
			!strings.HasPrefix(fmt.Sprint(m["error"]), "file: "+path+" is empty now; ") {
			t.Errorf("logged %s %v", failed.Message, m)
		}
		if w.allows(t, "one.example") {
			t.Errorf("%q has opened what was denied", blank)
		}
	}
	writeFile(t, path, "# nobody\n")
	w.line(t, zapcore.InfoLevel)
	if !w.allows(t, "one.example") {
		t.Error("a comment does not say that it is meant")
	}
}

// A change of one file reads the others again as they are; a bad one among them
// keeps everything.
func TestAccessRules_SeveralFiles(t *testing.T) {
	deny, allow := subjectFile(t, "*.example\n"), subjectFile(t, "good.example\n")
	w := watchRules(t, Rule{Files: []string{allow}, Allow: true}, Rule{Files: []string{deny}})
	if !w.allows(t, "good.example") || w.allows(t, "other.example") {
		t.Fatal("the first list is not in force")
	}
	w.line(t, zapcore.InfoLevel)
	writeFile(t, allow, "other.example\n")
	w.line(t, zapcore.InfoLevel)
	if w.allows(t, "good.example") || !w.allows(t, "other.example") {
		t.Error("the change of one file is not in force")
	}
	if err := os.Remove(allow); err != nil {
		t.Fatal(err)
	}
	writeFile(t, deny, "*.net\n")
	failed := w.line(t, zapcore.ErrorLevel)
	for failed.Message != "access rules cannot be read; the old ones stay" { // that the file is gone is told too
		failed = w.line(t, zapcore.ErrorLevel)
	}
	if got := fmt.Sprint(failed.ContextMap()["error"]); !strings.HasPrefix(got, "acl[0]: file: stat "+allow) {
		t.Errorf("logged %s", got)
	}
	if w.allows(t, "good.example") || !w.allows(t, "other.example") || !w.allows(t, "x.net") {
		t.Error("a missing file has changed the list")
	}
}

// A file that could not be read when it changed is read later, though it has not changed
// again; that is told once as an error.
func TestAccessRules_ReadLater(t *testing.T) {
	deny, other := subjectFile(t, "one.example\n"), subjectFile(t, "three.example\n")
	w := watchRules(t, Rule{Files: []string{deny, other}})
	w.line(t, zapcore.InfoLevel)
	away := other + ".away"
	if err := os.Rename(other, away); err != nil {
		t.Fatal(err)
	}
	writeFile(t, deny, "two.example\n")
	w.line(t, zapcore.ErrorLevel)
	if w.allows(t, "one.example") || !w.allows(t, "two.example") {
		t.Error("the old rules are not in force")
	}
	if err := os.Rename(away, other); err != nil { // as it was: no change
		t.Fatal(err)
	}
	for !w.allows(t, "one.example") || w.allows(t, "two.example") {
		w.line(t, zapcore.InfoLevel) // of the file that is there again, or of the rules
	}
	if w.allows(t, "three.example") {
		t.Error("the new rules are not in force")
	}
}

// Changes that are told of while a list is made are in the next one, which is made once
// for all of them; each is told whether they are in force.
func TestAccessRules_ReloadTogether(t *testing.T) {
	path := subjectFile(t, "one.example\n")
	w := watchRules(t, Rule{Files: []string{path}})
	for _, watcher := range w.watchers {
		watcher.Stop()
	}
	<-w.logs // loaded
	for _, step := range []struct {
		content string
		taken   bool
	}{{"two.example\n", true}, {"two example\n", false}, {"three.example\n", true}} {
		writeFile(t, path, step.content)
		results := make(chan bool)
		w.rebuild.Lock()
		before := w.told.Load()
		for range 8 {
			go func() { results <- w.reload(path, false) }()
		}
		for w.told.Load() < before+8 {
			runtime.Gosched()
		}
		w.rebuild.Unlock()
		for range 8 {
			if taken := <-results; taken != step.taken {
				t.Errorf("%q: taken: %t", step.content, taken)
			}
		}
		lines := len(w.logs)
		for range lines {
			<-w.logs
		}
		if lines > 1 {
			t.Errorf("%q: %d lines", step.content, lines)
		}
	}
}

// While one file is being written, the change of another does not bring half of it into
// force.
func TestAccessRules_HalfWritten(t *testing.T) {
	whole, half := subjectFile(t, "one.example\n"), subjectFile(t, "secret.example\n")
	w := watchRules(t, Rule{Files: []string{whole, half}})
	for _, watcher := range w.watchers {
		watcher.Stop() // what they would tell is told here
	}
	writeFile(t, half, "")
	writeFile(t, whole, "two.example\n")
	if w.reload(whole, false) || w.allows(t, "secret.example") || w.allows(t, "one.example") {
		t.Error("half of a list is in force")
	}
}

// After stop, no change of a file matters.
func TestAccessRules_Stopped(t *testing.T) {
	path := subjectFile(t, "one.example\n")
	w := watchRules(t, Rule{Files: []string{path}})
	w.Stop()
	writeFile(t, path, "two.example\n")
	w.reload(path, false) // as a watch that was just about to call
	if w.allows(t, "one.example") {
		t.Error("the list was changed")
	}
}
