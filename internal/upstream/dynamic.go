package upstream

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/shared"
)

// This file contains how members come and go with dynamic sources: each is asked by
// itself, and what it told last stays until it answers again.

// Source tells where members are that come and go.
type Source struct {
	// Name is what it is called in the log.
	Name string
	// ID names the settings that its answers depend on.
	ID string
	// Ask asks it. It ends with the context, as far as it can.
	Ask func(context.Context) ([]Found, error)
	// Every is how often it is asked, and Patience how long it has for an answer.
	Every, Patience time.Duration
}

// Found is a member that a source has told.
type Found struct {
	HostPort string
	Rank     Rank
}

// Rank is what a source may tell of a member beside its address. The zero value is that
// of a member of which nothing is told.
type Rank struct{ Priority, Weight int }

// compareFound is an order that does not depend on that of the answer, which DNS servers
// rotate.
func compareFound(a, b Found) int {
	return cmp.Or(cmp.Compare(a.Rank.Priority, b.Rank.Priority), cmp.Compare(b.Rank.Weight, a.Rank.Weight), cmp.Compare(a.HostPort, b.HostPort))
}

// Told is what a dynamic source told last. It outlives a configuration.
type Told struct{ found atomic.Pointer[[]Found] }

// Destruct forgets it.
func (*Told) Destruct() error { return nil }

// SharedTold is what dynamic sources in this process told last, by their settings.
var SharedTold = shared.NewPool[*Told]()

const (
	// A source that fails is asked again after askAgainFirst, and after twice as long
	// each time, up to askAgainMax: it may hold locks while it is asked, as those of
	// reverse_proxy do.
	askAgainFirst = time.Second
	askAgainMax   = 15 * time.Second
	// tellSourceAgain is how often it is told that it still fails.
	tellSourceAgain = time.Minute
)

// recallSources begins with what the sources told last. After a reload, these are the
// members that there are until they answer again.
func (g *Group) recallSources() error {
	g.dynamic = make([][]*Spec, len(g.cfg.Sources))
	g.unasked = len(g.cfg.Sources)
	for i := range g.cfg.Sources {
		told, err := SharedTold.Use(g.cfg.Sources[i].ID, func() (*Told, error) { return new(Told), nil })
		if err != nil {
			return err
		}
		g.recalled = append(g.recalled, told) // from here on Close releases it
		found := told.Value.found.Load()
		if found == nil {
			continue
		}
		if g.dynamic[i], err = g.foundSpecs(*found); err != nil {
			return err
		}
	}
	return nil
}

// followSource asks a source again and again. While it fails, the members it has told
// last stay.
func (g *Group) followSource(i int) {
	s := &g.cfg.Sources[i]
	timer := time.NewTimer(0)
	defer timer.Stop()
	var told time.Time // that it fails; zero while it works
	var pause time.Duration
	for first := true; ; first = false {
		select {
		case <-g.stop:
			return
		case <-timer.C:
		}
		found, err := g.ask(s)
		if g.cfg.Context.Err() != nil {
			return // a reload: an answer that was cut off is nobody's failure
		}
		if err == nil {
			err = g.replaceFound(i, found)
		}
		if first {
			g.wasAsked()
		}
		wait := s.Every
		if err == nil {
			told, pause = time.Time{}, 0
			g.tellSource(s.Name, nil)
			if len(found) == 0 {
				wait = min(wait, askAgainFirst)
			}
		} else {
			if told.IsZero() || time.Since(told) >= tellSourceAgain {
				told = time.Now()
				g.cfg.Logger.Error("dynamic source of upstreams failed; the members it told last stay",
					zap.String("source", s.Name), zap.Error(err))
			}
			g.tellSource(s.Name, err)
			pause = min(max(2*pause, askAgainFirst), askAgainMax)
			wait = pause
		}
		timer.Reset(wait)
	}
}

// ask asks a source, and brings the answer into order.
func (g *Group) ask(s *Source) ([]Found, error) {
	ctx, cancel := context.WithTimeout(g.cfg.Context, s.Patience)
	defer cancel()
	found, err := s.Ask(ctx)
	if err != nil {
		return nil, fmt.Errorf("dynamic: %w", err)
	}
	slices.SortFunc(found, compareFound)
	return found, nil
}

// replaceFound makes the members of a source those that it has found.
func (g *Group) replaceFound(i int, found []Found) error {
	specs, err := g.foundSpecs(found)
	if err != nil {
		return err
	}
	if err := g.replace(&g.dynamic[i], specs); err != nil {
		return err
	}
	g.recalled[i].Value.found.Store(&found)
	return nil
}

// foundSpecs completes the members that a source has told.
func (g *Group) foundSpecs(found []Found) ([]*Spec, error) {
	specs := make([]*Spec, len(found))
	for i, f := range found {
		addr, err := ParseURL(f.HostPort, g.cfg.Scheme)
		if err != nil {
			return nil, fmt.Errorf("dynamic: '%s': %w", plaintext.Escaped(f.HostPort), err)
		}
		if specs[i], err = g.cfg.At(addr, f.Rank); err != nil {
			return nil, fmt.Errorf("dynamic: %w", err)
		}
	}
	return specs, nil
}

// wasAsked notes that a source has answered or failed for the first time.
func (g *Group) wasAsked() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.unasked--; g.unasked == 0 {
		g.begun()
	}
}

// AwaitMembers waits for the first answer of the sources while the group has no members:
// until there are any, or no source is left that was not asked, but no longer than a dial
// may take. The error is that of the context.
func (g *Group) AwaitMembers(ctx context.Context) error {
	if len(g.cfg.Sources) == 0 || len(g.health.Members()) > 0 {
		return nil
	}
	timer := time.NewTimer(g.cfg.Dialer.Timeout)
	defer timer.Stop()
	select {
	case <-g.beginning:
	case <-g.stop:
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
