package proxydial

import "sync"

// chunkSize is the unit in which received bytes are kept.
const chunkSize = 16 << 10

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// byteQueue keeps received bytes until they are read. Chunks are borrowed only
// while bytes wait; they are filled before another one is taken, so that many
// small frames cost no more than their bytes.
type byteQueue struct {
	chunks []*[chunkSize]byte
	r, w   int // read from the first chunk at r, write to the last one at w
	n      int // bytes waiting
}

func (q *byteQueue) write(p []byte) {
	q.n += len(p)
	for len(p) > 0 {
		if len(q.chunks) == 0 || q.w == chunkSize {
			q.chunks = append(q.chunks, chunks.Get().(*[chunkSize]byte))
			q.w = 0
		}
		n := copy(q.chunks[len(q.chunks)-1][q.w:], p)
		q.w += n
		p = p[n:]
	}
}

func (q *byteQueue) read(p []byte) (total int) {
	for len(p) > 0 && q.n > 0 {
		end := chunkSize
		if len(q.chunks) == 1 {
			end = q.w
		}
		n := copy(p, q.chunks[0][q.r:end])
		q.r, q.n, total, p = q.r+n, q.n-n, total+n, p[n:]
		if q.r == end {
			chunks.Put(q.chunks[0])
			q.chunks[0] = nil
			q.chunks, q.r = q.chunks[1:], 0
		}
	}
	if q.n == 0 {
		q.drop()
	}
	return total
}

// drop gives everything back.
func (q *byteQueue) drop() {
	for _, c := range q.chunks {
		chunks.Put(c)
	}
	*q = byteQueue{}
}
