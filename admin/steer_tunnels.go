package admin

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/relay"
	"github.com/caddy-egress/egress/internal/tunnels"
)

// This file contains how tunnels are ended by hand.

// EndedTunnels are those that were ended.
type EndedTunnels struct {
	DryRun bool         `json:"dry_run,omitempty" doc:"Whether nothing was ended: those are told that would be."`
	Ended  list[Tunnel] `json:"tunnels" doc:"What was ended."`
}

// flag is a parameter that is true or false.
func flag(name, does string) param {
	return param{name, does, "true or false", schema{"type": "boolean"}, func(s string) (any, error) {
		switch s {
		case "true", "false":
			return s == "true", nil
		}
		return nil, errValue
	}}
}

// endTunnelParams are what tunnels are selected by.
var endTunnelParams = append(slices.DeleteFunc(slices.Clone(tunnelParams), func(p param) bool { return p.name == "sort" }), dryRun)

var dryRun = flag("dry_run", "Whether to tell only which tunnels would be ended. Default: false.")

// endTunnels ends all tunnels that are selected, of which limit bounds only how many are
// told.
func endTunnels(c *call) (any, error) {
	filter, err := c.tunnelFilter()
	if err != nil {
		return nil, err
	}
	if filter.listed != nil && filter.listed.twice {
		return nil, apiError(http.StatusBadRequest, fmt.Errorf("query parameter 'upstream': handlers list different upstreams as '%s'; say which by its id: %s",
			plaintext.Printable(filter.upstream), strings.Join(slices.Sorted(maps.Keys(filter.listed.ids)), ", ")))
	}
	if filter == (tunnelFilter{}) && c.query["handler"] == nil {
		return nil, apiError(http.StatusBadRequest,
			errors.New("say which tunnels are meant, by user, client, target, upstream, min_age, min_bytes or handler; PUT /egress/emergency with end_tunnels ends all"))
	}
	books, err := c.books()
	if err != nil {
		return nil, err
	}
	now, out := time.Now(), EndedTunnels{DryRun: asked[bool](c, "dry_run"), Ended: newList[Tunnel](c.limit())}
	each(books, func(e tunnels.Entry, carried carried) {
		if !filter.takes(e, carried, now) {
			return
		}
		out.Ended.add(func() Tunnel { return tunnelOf(&rankedTunnel{entry: e, carried: carried}, now) })
		if !out.DryRun {
			e.End(relay.ReasonAdmin)
		}
	})
	if n := out.Ended.Total; n > 0 && !out.DryRun {
		c.changed("tunnels ended", zap.Int("tunnels", n), zap.String("filter", plaintext.Short(c.r.URL.RawQuery, maxText)))
	}
	return &out, nil
}

// endTunnel ends one tunnel.
func endTunnel(c *call) (any, error) {
	id, err := strconv.ParseUint(c.path["id"], 10, 64)
	if err != nil {
		return nil, apiError(http.StatusBadRequest, fmt.Errorf("'%s' is not the id of a tunnel: a number", plaintext.Printable(c.path["id"])))
	}
	books, err := c.books()
	if err != nil {
		return nil, err
	}
	dry := asked[bool](c, "dry_run")
	var found *Tunnel
	each(books, func(e tunnels.Entry, carried carried) {
		if e.ID() == id {
			t := tunnelOf(&rankedTunnel{entry: e, carried: carried}, time.Now())
			found = &t
			if !dry {
				e.End(relay.ReasonAdmin)
			}
		}
	})
	if found != nil && !dry {
		c.changed("tunnel ended", zap.Uint64("tunnel", id), zap.String("user", found.User), zap.String("client", found.Client), zap.String("target", found.Target))
	}
	if found != nil {
		return found, nil
	}
	return nil, apiError(http.StatusNotFound, fmt.Errorf("there is no tunnel %d; it may have ended", id))
}
