package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"

	"carte/agent/wire"
	"carte/lab"
	"carte/lab/chunk"
)

// errLie is wrapped by errors that say: this is not what an agent sends. Who does it is asked no more.
var errLie = errors.New("it does not keep to the rules")

// errGone is wrapped by errors that say: another one could not be reached, was cut off, or is in trouble.
var errGone = errors.New("it is out of reach")

func gone(err error) error { return fmt.Errorf("%w: %w", errGone, err) }

// errBusy says that another one has as many requests as he answers at a time.
var errBusy = errors.New("busy")

const (
	peerStall = 2 * time.Second // so long another one may send nothing
	mostFails = 6               // so often in a row requests may fail
	mostLacks = 3               // so often it may say that it has what it has not
)

// A peer is another agent. What the pool knows of it is guarded by the pool's lock.
type peer struct {
	lab.Peer
	seed uint64
	http *http.Client

	answers bool      // it did, the last time
	away    time.Time // so long it is asked nothing
	busy    time.Time // so long it is asked for no chunk
	phase   byte
	have    []uint64 // by the numbers of the pool; never changed but by who holds the lock
	count   int      // the most that it had
	grew    time.Time
	asked   int // requests for chunks
	fails   int // in a row
	lacks   int // answers without a chunk that it said it had
	told    bool
}

func newPeer(x lab.Peer) (*peer, error) {
	c, err := wire.Client("https://"+x.Addr, x.Pin, &http.Transport{
		DialContext:            (&net.Dialer{Timeout: peerStall}).DialContext,
		TLSHandshakeTimeout:    peerStall,
		MaxIdleConnsPerHost:    peerRequests + 1,
		MaxResponseHeaderBytes: 8 << 10,
		ReadBufferSize:         64 << 10,
	})
	if err != nil {
		return nil, err
	}
	return &peer{Peer: x, seed: seedOf(x.Token), http: c}, nil
}

// missed notes that it did not answer. It is asked again after a pause that grows to half a minute.
func (q *peer) missed(now time.Time) {
	q.fails++
	q.answers = false
	q.away = now.Add(500 * time.Millisecond << min(q.fails-1, 6))
}

// once makes one request. read gets the body; it is not called when the agent has nothing to say (yet).
func (q *peer) once(ctx context.Context, method, path string, body []byte, read func(io.Reader) error) error {
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	watchdog := time.AfterFunc(peerStall, cut)
	defer watchdog.Stop()
	req, err := http.NewRequestWithContext(ctx, method, "https://"+q.Addr+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+q.Token)
	resp, err := q.http.Do(req)
	if err != nil {
		return gone(err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return read(alive{resp.Body, watchdog, peerStall})
	case http.StatusNoContent, http.StatusNotFound:
		return nil
	case http.StatusServiceUnavailable:
		return errBusy
	}
	return gone(fmt.Errorf("it answers %s", resp.Status))
}

// ask returns which chunks it has, by the pool's numbers, and how far it is: 0 before it fetches.
func (q *peer) ask(ctx context.Context, p *pool) (have []uint64, phase byte, err error) {
	have = make([]uint64, len(p.open))
	for j := range p.f.parts {
		n := len(p.f.parts[j].IDs)
		err := q.once(ctx, http.MethodGet, pathHave+p.f.parts[j].Write.Root.String(), nil, func(r io.Reader) error {
			b := make([]byte, 1+8*wordsOf(n))
			if _, err := io.ReadFull(r, b); err == io.EOF || err == io.ErrUnexpectedEOF {
				return fmt.Errorf("a list of chunks that ends early: %w", errLie)
			} else if err != nil {
				return gone(err)
			}
			if more, _ := r.Read(make([]byte, 1)); more > 0 || b[0] != fetching && b[0] != complete {
				return fmt.Errorf("a list of chunks that is none: %w", errLie)
			}
			phase = max(phase, b[0])
			to := have[p.base[j]/64:][:wordsOf(n)]
			for i := range to {
				to[i] = binary.LittleEndian.Uint64(b[1+8*i:])
			}
			if spare := n % 64; spare > 0 && to[len(to)-1]>>spare != 0 {
				return fmt.Errorf("a list with more chunks than there are: %w", errLie)
			}
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	return have, phase, nil
}

// take asks for a batch and writes what comes, proven. rest was not brought.
func (q *peer) take(ctx context.Context, w *writer, b *bundle) (rest []chunk.ID, err error) {
	var body []byte
	for _, id := range b.ids {
		body = binary.LittleEndian.AppendUint32(body, uint32(b.places[id][0].i))
	}
	var lacking []chunk.ID
	left := b.ids
	failed := error(nil) // ours
	err = q.once(ctx, http.MethodPost, pathChunks+b.places[b.ids[0]][0].p.Write.Root.String(), body, func(r io.Reader) error {
		var buf []byte
		for {
			id, stored, err := chunk.ReadFrame(r, buf)
			switch {
			case err == io.EOF:
				return nil
			case errors.Is(err, chunk.ErrDamaged):
				return fmt.Errorf("%w: %w", err, errLie)
			case err != nil:
				return gone(err)
			}
			j := slices.Index(left, id)
			if j < 0 {
				return fmt.Errorf("it sent chunk %v, which nobody asked for: %w", id, errLie)
			}
			if err := w.write(ctx, id, stored, b.places[id]); errors.Is(err, chunk.ErrDamaged) {
				return fmt.Errorf("%w: %w", err, errLie)
			} else if err != nil {
				failed = err
				return err
			}
			w.pool.gained.Add(1)
			lacking, left, buf = append(lacking, left[:j]...), left[j+1:], stored[:0]
		}
	})
	if failed != nil {
		return nil, failed
	}
	rest = append(lacking, left...)
	if ctx.Err() != nil {
		return rest, context.Cause(ctx)
	}
	if err == nil && len(rest) > 0 {
		err = errLacks
	}
	return rest, err
}

// errLacks says that an answer was whole and something that was said to be there was not in it.
var errLacks = errors.New("it has not all that it said it has")
