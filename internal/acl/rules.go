package acl

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/filewatch"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// Rules are the access rules of a handler. Their list is what they mean now:
// it is replaced when a file changes that rules are read from.
type Rules struct {
	rules   []Rule
	ports   []PortRange
	logger  *zap.Logger
	hits    *Hits
	texts   []string         // that hits are held by
	counted map[string]*hits // these

	list     atomic.Pointer[List]
	watchers []*filewatch.Watcher
	changed  func() // called after the list was replaced
	emit     Emit

	stopped atomic.Bool
	failed  atomic.Pointer[reloadFailure] // nil: the files could be read the last time
	told    atomic.Int64                  // changes of files that were told of
	rebuild sync.Mutex                    // held while the list is made anew
	seen    int64                         // guarded by rebuild: changes that the last one knew of
	taken   bool                          // guarded by rebuild: the last one brought a list
}

// NewRules compiles the rules. The files are watched from follow on, but what
// changes before is not missed. What the rules decide is counted in counts. With an error,
// the rules are of no use but for stop.
func NewRules(rules []Rule, ports []PortRange, counts *Hits, logger *zap.Logger) (*Rules, error) {
	r := &Rules{rules: rules, ports: ports, logger: logger, hits: counts, texts: textsOf(rules)}
	r.counted = counts.hold(r.texts)
	for _, path := range r.paths() {
		r.watchers = append(r.watchers, filewatch.New(path, logger)) // before it is read
	}
	start := time.Now()
	list, err := compile(rules, ports, r.counted)
	if err != nil {
		r.Stop()
		return nil, err
	}
	r.Put(list)
	if len(r.watchers) > 0 {
		logger.Info("access rules loaded from files", list.counts(time.Since(start))...)
	}
	return r, nil
}

// maxProblem is how much is told of why files could not be read.
const maxProblem = 512

// paths are the files that rules are read from, each once.
func (r *Rules) paths() (paths []string) {
	for i := range r.rules {
		for _, path := range r.rules[i].Files {
			if path != "" && !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	return paths
}

// Now is the list that is in force. Who asks two questions that belong together
// asks them of one list.
func (r *Rules) Now() *List { return r.list.Load() }

// Put makes l what the rules mean.
func (r *Rules) Put(l *List) { r.list.Store(l) }

// Emit emits an event. It must not block.
type Emit func(event string, data map[string]any)

// Follow watches the files until stop.
func (r *Rules) Follow(changed func(), emit Emit) {
	r.changed, r.emit = changed, emit
	for i, path := range r.paths() {
		r.watchers[i].Start(func(again bool) bool { return r.reload(path, again) })
	}
}

// Stop ends the watch. A list that is just being made will not be taken.
func (r *Rules) Stop() {
	if !r.stopped.Swap(true) {
		r.hits.release(r.texts)
	}
	for _, w := range r.watchers {
		w.Stop()
	}
}

// reload makes the list anew after a file has changed, and reports whether it did. If
// that fails, the old list stays; again says that the change was told of before. All
// files are read: a list holds nothing that would tell which file a subject came from,
// and files that change together are rebuilt from together. While another one is being
// written, nothing is read: half of a list must not come into force with this one.
func (r *Rules) reload(path string, again bool) bool {
	change := r.told.Add(1)
	r.rebuild.Lock()
	defer r.rebuild.Unlock()
	switch {
	case r.stopped.Load():
		return true // nobody needs it any more
	case change <= r.seen:
		return r.taken // somebody else began later
	}
	r.seen = r.told.Load()
	start := time.Now()
	if r.unsettledBeside(path) {
		r.taken = false
		return false // soon again: it is not known that the other file is whole
	}
	list, err := compile(r.rules, r.ports, r.counted)
	if err == nil {
		err = list.emptied(r.Now())
	}
	r.taken = err == nil && !r.unsettledBeside(path)
	switch {
	case r.stopped.Load():
	case err == nil && !r.taken:
	case err != nil:
		problem := plaintext.Short(err.Error(), maxProblem)
		before := r.failed.Swap(&reloadFailure{time.Now(), problem})
		again = again && before != nil // and not put off before it was read
		r.logger.Log(filewatch.Level(again), "access rules cannot be read; the old ones stay", zap.String("changed", path), zap.Error(err))
		if !again {
			r.emit("rules_rejected", map[string]any{"changed": path, "error": problem})
		}
	default:
		r.Put(list)
		r.failed.Store(nil)
		r.logger.Info("access rules changed", append(list.counts(time.Since(start)), zap.String("changed", path))...)
		r.emit("rules_reloaded", map[string]any{"changed": path, "names": list.names.Len(), "prefixes": list.prefixes.Len(), "sockets": len(list.sockets)})
		r.changed()
	}
	return r.taken
}

// unsettledBeside reports whether another file has changed, and is not known to be whole.
func (r *Rules) unsettledBeside(path string) bool {
	for i, other := range r.paths() {
		if other != path && r.watchers[i].Unsettled() {
			return true
		}
	}
	return false
}

// counts tell, in a log line, what the list is made of.
func (l *List) counts(took time.Duration) []zap.Field {
	return []zap.Field{
		zap.Int("from_files", l.files),
		zap.Int("names", l.names.Len()),
		zap.Int("prefixes", l.prefixes.Len()),
		zap.Int("sockets", len(l.sockets)),
		zap.Duration("took", took),
	}
}
