package upstream

import (
	"fmt"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/filewatch"
	"github.com/caddy-egress/egress/internal/plaintext"
)

// This file contains how members come and go with a list in a file.

// maxListLine is far more than the longest URL with credentials.
const maxListLine = 8 << 10

// readFile reads the list of the group. A bad line refuses the whole.
func (g *Group) readFile() ([]*Spec, error) {
	var specs []*Spec
	err := plaintext.Lines(g.cfg.File, maxListLine, func(line string) error {
		if line = plaintext.WithoutComment(line); line == "" {
			return nil
		}
		addr, err := ParseLine(line, g.cfg.Scheme)
		if err != nil {
			return err
		}
		s, err := g.cfg.At(addr, Rank{})
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
		err = g.noneListed()
	}
	if err == nil {
		err = g.replace(&g.listed, listed)
	}
	if err != nil {
		g.cfg.Logger.Log(filewatch.Level(again), "list of upstreams cannot be used; the old one stays", zap.String("source", g.cfg.File), zap.Error(err))
		g.tellSource(g.cfg.File, err)
		return false
	}
	g.tellSource(g.cfg.File, nil)
	g.cfg.Logger.Info("list of upstreams changed", zap.String("file", g.cfg.File), zap.Int("upstreams", len(listed)))
	return true
}

func (g *Group) noneListed() error {
	return fmt.Errorf("file: %s has no upstreams", plaintext.FullPath(g.cfg.File))
}

// replace makes one of the lists another, and the members what the lists say.
func (g *Group) replace(list *[]*Spec, with []*Spec) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := *list
	*list = with
	err := g.apply()
	if err != nil {
		*list = before
	}
	return err
}
