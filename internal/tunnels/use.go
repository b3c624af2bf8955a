package tunnels

import (
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/shared"
)

// Use is one configuration's hold on a book, which is its Value. The handler and each of
// its tunnels have a part in it, so the book is released by whoever goes last. Tunnels keep
// it for as long as they live, so it holds nothing else of the configuration.
type Use struct {
	*shared.Use[*Book]
	parts atomic.Int64

	giveBack func() // Release, as a value made once
}

// Acquire takes a hold on the book with the key, which is made if nobody has it; an error
// is that of the pool. The logger is asked for when there is something to tell, which may
// be when the configuration is gone: the function must hold nothing of it.
func Acquire(key string, logger func() *zap.Logger) (*Use, error) {
	book, err := useBook(key, logger)
	if err != nil {
		return nil, err
	}
	use := &Use{Use: book}
	use.giveBack = use.Release
	use.parts.Store(1)
	return use, nil
}

func useBook(key string, logger func() *zap.Logger) (*shared.Use[*Book], error) {
	return Books.Use(key, func() (*Book, error) { return newBook(key, logger), nil })
}

// take adds a part, and returns the book with the function that gives the part
// back. Where all were given back already, a request that outlived its
// configuration has come late: it gets a hold of its own.
func (u *Use) take() (*Book, func(), error) {
	for n := u.parts.Load(); n > 0; n = u.parts.Load() {
		if u.parts.CompareAndSwap(n, n+1) {
			return u.Value, u.giveBack, nil
		}
	}
	own, err := useBook(u.Key, u.Value.Live.logger)
	if err != nil {
		return nil, nil, err
	}
	return own.Value, func() { _ = own.Release() }, nil
}

// Release gives one part back. Configurations give theirs back once; slots do it for
// tunnels.
func (u *Use) Release() {
	if u.parts.Add(-1) == 0 {
		_ = u.Use.Release()
	}
}
