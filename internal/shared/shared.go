package shared

import (
	"github.com/caddyserver/caddy/v2"
)

// Pool keeps values of one kind that outlive a configuration: each under a key, for as
// long as somebody uses it. The last one to release it destructs it.
type Pool[T caddy.Destructor] struct{ values *caddy.UsagePool }

// NewPool returns an empty one.
func NewPool[T caddy.Destructor]() *Pool[T] { return &Pool[T]{caddy.NewUsagePool()} }

// Use is a hold on a value of a pool.
type Use[T caddy.Destructor] struct {
	Value T
	Key   string
	Kept  bool // it was there before

	pool *Pool[T]
}

// Use returns the value with the key, which is built if nobody has it.
func (p *Pool[T]) Use(key string, build func() (T, error)) (*Use[T], error) {
	v, kept, err := p.values.LoadOrNew(key, func() (caddy.Destructor, error) { return build() })
	if err != nil {
		return nil, err
	}
	return &Use[T]{v.(T), key, kept, p}, nil
}

// Release gives the value up, once. A nil use holds none. The error is of the value's
// Destruct.
func (u *Use[T]) Release() error {
	if u == nil {
		return nil
	}
	_, err := u.pool.values.Delete(u.Key)
	return err
}

// All are the values in use.
func (p *Pool[T]) All() (all []T) {
	p.values.Range(func(_, v any) bool {
		all = append(all, v.(T))
		return true
	})
	return all
}

// Holders is how many hold the value with each key that is in use.
func (p *Pool[T]) Holders() map[string]int {
	held := make(map[string]int)
	p.values.Range(func(key, _ any) bool {
		held[key.(string)] = 0
		return true
	})
	for key := range held { // not within Range, which holds the lock
		held[key], _ = p.values.References(key)
	}
	return held
}
