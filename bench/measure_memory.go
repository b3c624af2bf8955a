//go:build linux

package main

import (
	"fmt"
	"sync"
	"time"
)

// memoryFigure is one figure about memory, with what the repetitions brought.
type memoryFigure struct {
	key     string
	group   string // of figures that are measured together
	what    string
	unit    string
	digits  int // behind the point
	subject string
	values  []float64
	errors  int64
	first   string
}

// memoryRun measures figures of one kind for a subject, once. It adds a value
// to each of them, in order.
type memoryRun struct {
	key      string // for -only
	name     string
	subjects []string
	repeats  int // 0: as many as asked for
	figures  []memoryFigure
	once     func(l *lab, p *proxy) (values []float64, result loadResult, err error)
}

// memoryRuns returns all of them. scale is applied to how much they hold.
func memoryRuns(scale float64) []memoryRun {
	s := scaled(scale)
	return []memoryRun{s.idleTunnels(), s.idleConns(), s.manyHosts(), slowReader(), s.watched()}
}

// runMemory makes the measurements. Each repetition has a fresh process: what a
// peak has left behind would be missing from the next difference.
func (l *lab) runMemory(m memoryRun, repeats int) (out []memoryFigure, err error) {
	if m.repeats > 0 {
		repeats = min(repeats, m.repeats)
	}
	for _, name := range m.subjects {
		if !l.present(name) {
			continue
		}
		progress(m.name + ": " + name)
		figures := append([]memoryFigure(nil), m.figures...)
		for i := range figures {
			figures[i].group, figures[i].subject = m.name, name
		}
		for range repeats {
			if err := l.repeatMemory(m, figures); err != nil {
				if l.ctx.Err() != nil {
					return nil, err
				}
				l.skip(m.name, fmt.Errorf("%s: %w", name, err))
				figures = nil
				break
			}
		}
		out = append(out, figures...)
	}
	return out, nil
}

func (l *lab) repeatMemory(m memoryRun, figures []memoryFigure) error {
	p, err := l.start(figures[0].subject)
	if err != nil {
		return err
	}
	defer p.stop()
	values, result, err := m.once(l, p)
	if err != nil {
		return err
	}
	for i := range values {
		f := &figures[i]
		f.values = append(f.values, values[i])
		if f.errors += result.Errors; f.first == "" {
			f.first = result.First
		}
	}
	return nil
}

// and adds up what two loads have brought.
func (r loadResult) and(other loadResult) loadResult {
	r.OK += other.OK
	r.Errors += other.Errors
	r.Seen += other.Seen
	if r.First == "" {
		r.First = other.First
	}
	return r
}

// usage is what a proxy holds.
type usage struct {
	memory      int64
	descriptors int
	goroutines  int // 0 where it is not known
}

// settledUsage is what it holds when it has given back what it does not use.
func (l *lab) settledUsage(p *proxy) (u usage, err error) {
	if u.memory, err = l.settledMemory(p); err != nil {
		return u, err
	}
	if u.descriptors, err = descriptors(p.pids...); err != nil {
		return u, err
	}
	if p.goroutines != nil {
		u.goroutines, err = p.goroutines()
	}
	return u, err
}

// settledMemory lets the proxy give back what it does not use, and reads its
// memory when that has become steady. It does so three times, because stacks
// shrink in one collection and pools are emptied by two.
func (l *lab) settledMemory(p *proxy) (n int64, err error) {
	times := 3
	if l.hasty {
		times = 1
	}
	for range times {
		if p.settle != nil {
			if err := p.settle(); err != nil {
				return 0, err
			}
		}
		if n, err = steadyMemory(p); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// steadyMemory reads the memory of a proxy until it has hardly changed for
// half a second, or for ten seconds.
func steadyMemory(p *proxy) (int64, error) {
	const step, enough, hardly = 100 * time.Millisecond, 5, 64 << 10
	last, same := int64(0), 0
	for range 100 {
		n, err := memory(p.pids...)
		if err != nil {
			return 0, err
		}
		if same++; max(n-last, last-n) > hardly {
			last, same = n, 0
		}
		if same == enough {
			break
		}
		time.Sleep(step)
	}
	return last, nil
}

// slowReader measures what a response that is read slowly costs: a client reads
// a large one slowly, then as fast as it can. The figure is by how much the
// proxy's memory grew at most.
func slowReader() memoryRun {
	read := load{Do: "requests", Conns: 1, N: 1, Size: oneGiB, SlowBytes: oneGiB / 4, SlowRate: 64 * oneMiB}
	return memoryRun{
		key: "slow", name: "A response of 1 GiB, read slowly", subjects: []string{egress, transport, squid, goProxy},
		figures: []memoryFigure{{key: "slow", what: "most growth", unit: "MiB", digits: 1}},
		once: func(l *lab, p *proxy) ([]float64, loadResult, error) {
			if l.hasty {
				read.Size, read.SlowBytes = oneGiB/8, oneGiB/32
			}
			warm, err := l.generate(p, "http", load{Do: "requests", Conns: 1, N: 10, Size: getSize})
			if err != nil {
				return nil, warm, err
			}
			before, err := l.settledMemory(p)
			if err != nil {
				return nil, warm, err
			}
			peak := watchMemory(p)
			result, err := l.generate(p, "http", read)
			growth := float64(max(peak()-before, 0)) / oneMiB
			return []float64{growth}, result.and(warm), err
		},
	}
}

// watchMemory looks at a proxy's memory all the time. The returned function
// ends that and returns the most that was seen.
func watchMemory(p *proxy) (peak func() int64) {
	const step = 10 * time.Millisecond
	var highest int64
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ticker := time.NewTicker(step)
		defer ticker.Stop()
		for {
			if n, err := memory(p.pids...); err == nil {
				highest = max(highest, n)
			}
			select {
			case <-end:
				return
			case <-ticker.C:
			}
		}
	})
	return func() int64 {
		close(end)
		wg.Wait()
		return highest
	}
}
