package sources

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-egress/egress/internal/plaintext"
	"github.com/caddy-egress/egress/internal/shared"
	"github.com/caddy-egress/egress/internal/upstream"
)

const (
	// minRefresh is how often a name may be looked up at most.
	minRefresh = time.Second
	// lookUpFor is how long a look-up may take. The Go resolver gives each server that the
	// system knows 5s, so the fourth of them may still answer.
	lookUpFor = 20 * time.Second

	// askOthers is how often sources of others are asked, which have caches of their own,
	// and askOthersFor is for how long: they may hold locks meanwhile.
	askOthers    = 5 * time.Second
	askOthersFor = 5 * time.Second
)

// sourceList is a list of sources, as that of `multi`.
type sourceList struct {
	SourcesRaw []json.RawMessage `json:"sources,omitempty" caddy:"namespace=http.reverse_proxy.upstreams inline_key=source"`
}

// add adds a source, or all those that it is made of.
func (l *sourceList) add(raw json.RawMessage) error {
	var multi struct {
		Source     string            `json:"source"`
		SourcesRaw []json.RawMessage `json:"sources"`
	}
	if err := json.Unmarshal(raw, &multi); err != nil || multi.Source != "multi" {
		l.SourcesRaw = append(l.SourcesRaw, raw) // what is wrong with it is told when it is loaded
		return nil
	}
	if err := caddy.StrictUnmarshalJSON(raw, &multi); err != nil {
		return fmt.Errorf("multi: %w", err)
	}
	if len(multi.SourcesRaw) == 0 {
		return errors.New("multi: has no sources")
	}
	for _, part := range multi.SourcesRaw {
		if err := l.add(part); err != nil {
			return err
		}
	}
	return nil
}

// Load loads the dynamic sources of a group from the JSON of a module; none from none. Each
// part of a `multi` is one, so that one that fails takes nothing from the others.
func Load(ctx caddy.Context, raw json.RawMessage) ([]upstream.Source, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	var list sourceList
	if err := list.add(raw); err != nil {
		return nil, fmt.Errorf("dynamic: %w", err)
	}
	sources := make([]upstream.Source, len(list.SourcesRaw))
	for i, raw := range list.SourcesRaw {
		id, err := shared.DigestOf(raw)
		if err != nil {
			return nil, fmt.Errorf("dynamic: %w", err)
		}
		sources[i].ID = id
	}
	loaded, err := ctx.LoadModule(&list, "SourcesRaw") // which empties it
	if err != nil {
		return nil, fmt.Errorf("dynamic: %w", err)
	}
	for i, module := range loaded.([]any) {
		if err := setSource(&sources[i], module); err != nil {
			return nil, fmt.Errorf("dynamic: %w", err)
		}
	}
	return sources, nil
}

// setSource says how a source is asked.
func setSource(s *upstream.Source, module any) error {
	switch m := module.(type) {
	case *reverseproxy.AUpstreams:
		return setAddressSource(s, m)
	case *reverseproxy.SRVUpstreams:
		return setSRVSource(s, m)
	case reverseproxy.UpstreamSource:
		s.Name = module.(caddy.Module).CaddyModule().ID.Name()
		s.Every, s.Patience = askOthers, askOthersFor
		s.Ask = func(ctx context.Context) ([]upstream.Found, error) { return askSource(ctx, m) }
		return nil
	}
	return fmt.Errorf("%T is no source of upstreams", module)
}

// askSource asks a source of another module. Its context ends with the request, which is
// all that such a source is given to be bounded by.
func askSource(ctx context.Context, source reverseproxy.UpstreamSource) ([]upstream.Found, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://egress.invalid/", http.NoBody)
	if err != nil {
		return nil, err
	}
	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), nil, nil)
	upstreams, err := source.GetUpstreams(r)
	if err != nil {
		return nil, err
	}
	found := make([]upstream.Found, len(upstreams))
	for i, u := range upstreams {
		host, port, err := net.SplitHostPort(u.Dial)
		if err != nil {
			return nil, fmt.Errorf("'%s' is not host:port", plaintext.Escaped(u.Dial))
		}
		found[i].HostPort = net.JoinHostPort(strings.TrimSuffix(host, "."), port)
	}
	return found, nil
}
