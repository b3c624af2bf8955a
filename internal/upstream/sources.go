package upstream

import (
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/filewatch"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains the sources of members that come and go: lists in files, and
// reverse_proxy's dynamic sources.

// maxListLine is far more than the longest URL with credentials.
const maxListLine = 8 << 10

// readFile reads the list of the group. A bad line refuses the whole.
func (g *Group) readFile() ([]*Spec, error) {
	var specs []*Spec
	err := plaintext.Lines(g.cfg.File, maxListLine, func(line string) error {
		if line[0] == '#' {
			return nil
		}
		addr, err := ParseLine(line, g.cfg.Scheme)
		if err != nil {
			return err
		}
		s, err := g.cfg.At(addr)
		specs = append(specs, s)
		return err
	})
	if err != nil {
		return nil, err
	}
	return specs, nil
}

// reloadFile takes the list over after a change, and reports whether it has. A bad one
// changes nothing; again says that it was told of before.
func (g *Group) reloadFile(again bool) bool {
	listed, err := g.readFile()
	if err == nil && len(listed) == 0 {
		err = fmt.Errorf("file: %s has no upstreams", g.cfg.File)
	}
	if err == nil {
		err = g.replace(&g.listed, listed)
	}
	if err != nil {
		g.cfg.Logger.Log(filewatch.Level(again), "list of upstreams cannot be used; the old one stays", zap.Error(err))
		return false
	}
	g.cfg.Logger.Info("list of upstreams changed", zap.String("file", g.cfg.File), zap.Int("upstreams", len(listed)))
	return true
}

// replace makes one of the lists another, and the members what the lists say.
func (g *Group) replace(list *[]*Spec, with []*Spec) error {
	g.mu.Lock()
	before := *list
	*list = with
	g.mu.Unlock()
	err := g.apply()
	if err != nil {
		g.mu.Lock()
		*list = before
		g.mu.Unlock()
	}
	return err
}

const (
	// askSource is how often a dynamic source is asked. It has a cache of its own,
	// with the time that the operator has given it.
	askSource = 5 * time.Second
	// askSourceAgain is how soon it is asked again when it fails or is empty.
	askSourceAgain = time.Second
	// tellSourceAgain is how often it is told that it still fails.
	tellSourceAgain = time.Minute
)

// followSource asks the dynamic source again and again. While it fails, the
// members it has told last stay.
func (g *Group) followSource() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var told time.Time // that it fails; zero while it works
	for {
		select {
		case <-g.stop:
			return
		case <-timer.C:
		}
		addrs, err := g.cfg.Source()
		if g.cfg.Context.Err() != nil {
			return // a reload: an answer that was cut off is nobody's failure
		}
		if err == nil {
			err = g.replaceDynamic(addrs)
		}
		switch {
		case err != nil && (told.IsZero() || time.Since(told) >= tellSourceAgain):
			told = time.Now()
			g.cfg.Logger.Error("dynamic source of upstreams failed; the members it told last stay", zap.Error(err))
		case err == nil:
			told = time.Time{}
		}
		wait := askSource
		if err != nil || len(addrs) == 0 {
			wait = askSourceAgain
		}
		timer.Reset(wait)
	}
}

// replaceDynamic makes the dynamic members those at the addresses.
func (g *Group) replaceDynamic(addrs []Address) error {
	specs, err := g.dynamicSpecs(addrs)
	if err != nil {
		return err
	}
	if err := g.replace(&g.dynamic, specs); err != nil {
		return err
	}
	g.cfg.State.source.Store(&addrs)
	return nil
}

// dynamicSpecs completes the members that a source has told.
func (g *Group) dynamicSpecs(addrs []Address) ([]*Spec, error) {
	specs := make([]*Spec, len(addrs))
	for i, addr := range addrs {
		var err error
		if specs[i], err = g.cfg.At(addr); err != nil {
			return nil, fmt.Errorf("dynamic: %w", err)
		}
	}
	return specs, nil
}
