package egress

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"

	"github.com/caddy-egress/egress/admin"
	"github.com/caddy-egress/egress/internal/caddyserver"
	"github.com/caddy-egress/egress/internal/orders"
)

// This file contains where the orders of the admin API are kept over restarts: in Caddy's
// storage. Instances that share one have orders of their own.

// orderStorage is a value in Caddy's storage, for the configuration with an HTTP app.
type orderStorage struct {
	certmagic.Storage
	app   caddy.App
	ended atomic.Bool // it was what ran, and the process ends
}

// savedAtExit has orders saved for the last time: a configuration that has begun to run just
// before the end may not have come to that.
var savedAtExit sync.Once

// provisionOrders takes up what was ordered before the process began. A handler that is
// provisioned to be explained only knows nothing of it.
func (h *Handler) provisionOrders(ctx caddy.Context) error {
	app, _ := caddyserver.Of(ctx)
	if app == nil || admin.RegistryOf(ctx) != &admin.Handlers {
		return nil
	}
	storage := &orderStorage{Storage: ctx.Storage(), app: app}
	withdraw, err := orders.Of.Keep(ctx, storage)
	if err != nil {
		return fmt.Errorf("orders of the admin API in storage: %w", err)
	}
	h.leaveOrders = func() {
		if caddy.Exiting() {
			storage.ended.Store(true)
			savedAtExit.Do(orders.Of.Settle)
		}
		withdraw()
	}
	return nil
}

// key is where the orders of this instance are. Caddy makes an ID for the instance if it has
// none.
func (*orderStorage) key() (string, error) {
	id, err := caddy.InstanceID()
	if err != nil {
		return "", err
	}
	return "egress/orders/" + id.String() + ".json", nil
}

// Runs implements orders.Storage.
func (s *orderStorage) Runs() bool { return s.ended.Load() || runs(s.app) }

// Name implements orders.Storage.
func (s *orderStorage) Name() string {
	where := fmt.Sprintf("%T %[1]p", s.Storage)
	if named, ok := s.Storage.(fmt.Stringer); ok {
		where = named.String()
	}
	return where + ", egress/orders"
}

// Load implements orders.Storage. An instance that has no ID has saved nothing.
func (s *orderStorage) Load(ctx context.Context) ([]byte, error) {
	if _, err := os.Stat(filepath.Join(caddy.AppDataDir(), "instance.uuid")); err != nil {
		return nil, nil
	}
	key, err := s.key()
	if err != nil {
		return nil, err
	}
	data, err := s.Storage.Load(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// Change implements orders.Storage. Processes with one data directory have one ID.
func (s *orderStorage) Change(ctx context.Context, change func([]byte) ([]byte, error)) (err error) {
	key, err := s.key()
	if err != nil {
		return err
	}
	if err := s.Lock(ctx, key); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Unlock(context.WithoutCancel(ctx), key)) }()
	data, err := s.Load(ctx)
	if err != nil {
		return err
	}
	if data, err = change(data); err != nil || data == nil {
		return err
	}
	return s.Store(ctx, key, data)
}

// Interface guards
var _ orders.Storage = (*orderStorage)(nil)
