package agent

import (
	"bufio"
	"context"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"carte/lab/chunk"
)

// What agents say to one another, over TLS whose key is pinned and with the token as bearer; both come from the server.
// Chunks are asked for by their number in the image with that root, so that nothing outside the plan has a name.
const (
	pathHave   = "/v1/have/"   // GET + root -> one byte, how far the agent is; one bit for each chunk that it has, in words of 64, little endian
	pathChunks = "/v1/chunks/" // POST + root, numbers of chunks, 32 bits each, little endian -> frames in that order, without those that it has not
)

// How far an agent is, as others are told.
const (
	fetching = 1 // it fetches, and will have more
	complete = 2 // it has all it needs
)

const (
	servedAtOnce = 4        // requests for chunks that are answered at a time
	servedConns  = 64       // connections that are open at a time
	recentBytes  = 24 << 20 // stored forms that are kept in memory, because others will want them soon
	mostAsked    = 64       // chunks in a request
)

// serve answers others until ctx ends, and closes the listener. A listener that breaks is said, and is no reason to fail.
func (s *swarm) serve(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathHave+"{root}", s.have)
	mux.HandleFunc("POST "+pathChunks+"{root}", s.chunks)
	var conns sync.WaitGroup
	var open atomic.Int32
	srv := &http.Server{
		Handler:           s.admit(mux),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      20 * time.Second,
		IdleTimeout:       30 * time.Second,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          log.New(io.Discard, "", 0), // who comes and goes is no news
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				conns.Add(1)
				if open.Add(1) > servedConns {
					c.Close()
				}
			case http.StateClosed:
				open.Add(-1)
				conns.Done()
			}
		},
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	err := srv.Serve(s.listener)
	if ctx.Err() == nil {
		s.say("no chunks are handed to other machines any more: %v", err)
	}
	<-ctx.Done()
	stop()
	srv.Close()
	conns.Wait()
	return context.Cause(ctx)
}

// admit lets in who has the token.
func (s *swarm) admit(next http.Handler) http.Handler {
	want := []byte("Bearer " + s.me.Token)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// part finds one of the plan's images. The status is what to answer when there is none: nothing yet, or never.
func (s *swarm) part(root string) (p *pool, part, status int) {
	id, err := chunk.ParseID(root)
	if err != nil {
		return nil, 0, http.StatusBadRequest
	}
	s.shelving.RLock()
	defer s.shelving.RUnlock()
	if s.shelf == nil {
		return nil, 0, http.StatusNoContent
	}
	for i := range s.shelf.f.parts {
		if s.shelf.f.parts[i].Write.Root == id {
			return s.shelf, i, 0
		}
	}
	return nil, 0, http.StatusNotFound
}

func (s *swarm) have(w http.ResponseWriter, r *http.Request) {
	p, i, status := s.part(r.PathValue("root"))
	if p == nil {
		w.WriteHeader(status)
		return
	}
	held := p.held[p.base[i]/64:][:wordsOf(len(p.f.parts[i].IDs))]
	b := make([]byte, 1, 1+8*len(held))
	b[0] = fetching
	if p.done.Load() {
		b[0] = complete
	}
	for k := range held {
		b = binary.LittleEndian.AppendUint64(b, held[k].Load())
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, _ = w.Write(b) // who does not get it asks again
}

func (s *swarm) chunks(w http.ResponseWriter, r *http.Request) {
	p, i, status := s.part(r.PathValue("root"))
	if p == nil {
		w.WriteHeader(status)
		return
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 4*mostAsked))
	if err != nil || len(body)%4 != 0 {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	buf := bufio.NewWriterSize(w, 64<<10)
	raw, packed := aligned(chunk.Size), []byte(nil)
	for ; len(body) > 0; body = body[4:] {
		n := binary.LittleEndian.Uint32(body)
		if int64(n) >= int64(len(p.f.parts[i].IDs)) {
			break // no agent asks for that; what follows is not to be trusted either
		}
		at := place{&p.f.parts[i], int(n)}
		stored, err := s.stored(p, p.base[i]+int(n), at, raw, &packed)
		if errors.Is(err, errNotHeld) {
			continue
		}
		if err == nil {
			err = chunk.WriteFrame(buf, at.p.IDs[at.i], stored)
		}
		if err != nil {
			panic(http.ErrAbortHandler) // half an answer must not look like a whole one
		}
	}
	_ = buf.Flush() // who does not get it asks elsewhere
}

// errNotHeld says that this disk does not have the chunk.
var errNotHeld = errors.New("not held")

// stored returns the stored form of chunk k, as it came or read from the disk and hashed. A place that holds something
// else is never read for others again.
func (s *swarm) stored(p *pool, k int, at place, raw []byte, packed *[]byte) ([]byte, error) {
	s.shelving.RLock()
	defer s.shelving.RUnlock()
	if s.shelf != p {
		return nil, errors.New("the disk is closed")
	}
	if p.held[k/64].Load()&(1<<(k%64)) == 0 {
		return nil, errNotHeld
	}
	id := at.p.IDs[at.i]
	if stored, ok := p.recent.get(id); ok {
		return stored, nil
	}
	off, n := at.p.at(at.i)
	if _, err := p.f.disk.ReadAt(raw[:n], off); err != nil || chunk.Sum(raw[:n]) != id {
		p.held[k/64].And(^uint64(1 << (k % 64)))
		return nil, errNotHeld
	}
	*packed = chunk.Pack(*packed, raw[:n])
	return *packed, nil
}

// recent keeps the stored forms of chunks that came from the server last: others are about to ask for them.
type recent struct {
	mu    sync.Mutex
	lru   *simplelru.LRU[chunk.ID, []byte]
	bytes int
}

func newRecent() *recent {
	r := &recent{}
	lru, err := simplelru.NewLRU(recentBytes, func(_ chunk.ID, stored []byte) { r.bytes -= len(stored) })
	if err != nil {
		panic("BUG: " + err.Error())
	}
	r.lru = lru
	return r
}

func (r *recent) get(id chunk.ID) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lru.Get(id)
}

// put keeps a copy.
func (r *recent) put(id chunk.ID, stored []byte) {
	b := append([]byte(nil), stored...)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lru.Contains(id) {
		return
	}
	for r.bytes+len(b) > recentBytes && r.lru.Len() > 0 {
		r.lru.RemoveOldest()
	}
	r.bytes += len(b)
	r.lru.Add(id, b)
}

// wordsOf is how many words of 64 bits hold n.
func wordsOf(n int) int { return (n + 63) / 64 }
