package tunnels

import (
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-egress/egress/internal/holdings"
	"github.com/caddy-egress/egress/internal/shared"
)

// Book counts and lists the tunnels of one handler. It is one of Books, under the
// handler's identity, and outlives configurations: tunnels of an old one still count in
// the next.
type Book struct {
	// Live are the tunnels that stand.
	Live List

	// Handler is the handler that the book is of.
	Handler string

	total   atomic.Int64
	clients *holdings.Counter[string]
	users   *holdings.Counter[string]

	mu    sync.Mutex
	rates map[string]*userRate // guarded by mu; only of users with tunnels, or who had some just now
}

// Destruct does nothing: what the book counts is gone.
func (*Book) Destruct() error { return nil }

// Books are those of all handlers, and of handlers that are gone and have tunnels.
var Books = shared.NewPool[*Book]()

func newBook(handler string, logger func() *zap.Logger) *Book {
	return &Book{
		Handler: handler,
		clients: holdings.New[string](0),
		users:   holdings.New[string](0),
		Live:    List{logger: logger},
	}
}

// Report is what a book holds at a moment.
type Report struct {
	Tunnels        int       // open, or about to be
	Configurations int       // that have entered
	Deadline       time.Time // when the open ones will be ended; 0 while they may go on
}

// Report tells what the book holds now.
func (b *Book) Report() Report {
	r := Report{Tunnels: int(b.total.Load())}
	b.Live.mu.Lock()
	defer b.Live.mu.Unlock()
	r.Configurations = len(b.Live.policies)
	if b.Live.deadline != nil {
		r.Deadline = b.Live.deadline.at
	}
	return r
}

// OfClient is how many tunnels a client has that are counted; see Take.
func (b *Book) OfClient(client string) int { return b.clients.Count(client) }

// OfUser is how many tunnels a user has that are counted; see Take.
func (b *Book) OfUser(user string) int { return b.users.Count(user) }

// count adds a tunnel, up to a limit if there is one.
func (b *Book) count(most int) bool {
	for {
		n := b.total.Load()
		if most > 0 && n >= int64(most) {
			return false
		}
		if b.total.CompareAndSwap(n, n+1) {
			return true
		}
	}
}
