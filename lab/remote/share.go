package remote

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

const (
	shareRequests = 16               // answered at a time; the others wait
	shareConns    = 64               // open at a time; more wait to be accepted
	shareStill    = 30 * time.Second // how long a client may stand still
	shareRoots    = 8                // manifests whose chunks are known to be theirs
)

// A Share lets other computers read the images of a lab, over HTTP, while Run runs. Whoever knows its address may read:
// the address holds a token that nobody can guess. It can be asked four things, all below that token, and changes nothing:
//
//	GET  /version?ref=    NAME or NAME@3 -> lab.Version, without its author and message
//	GET  /manifest?root=&size=   of a version of the lab -> the manifest, encoded
//	POST /chunks?root=&root=     ids, 32 bytes each, all of them in one of those manifests -> frames in the same order, and a trailer
//
// On the loopback it speaks HTTP. Anywhere else it speaks TLS 1.3 with a certificate made for this one Run, whose SHA-256
// is the fragment of the address.
type Share struct {
	Depot lab.Depot
	Log   *slog.Logger

	ln     net.Listener
	secure *tls.Config
	token  string
	gone   context.Context
	room   chan struct{}

	mu    sync.Mutex
	roots []sortedRoot // the one that was asked for last is last
}

// sortedRoot is what a manifest lists.
type sortedRoot struct {
	root chunk.ID
	ids  []chunk.ID // rising
}

// Listen opens the port, and returns the address that others are to be told.
func (s *Share) Listen(address string) (url string, err error) {
	host, port, err := net.SplitHostPort(address)
	if err == nil && host == "" {
		err = errors.New("it names no address of this computer")
	}
	if err != nil {
		return "", fmt.Errorf("%q is not ADDRESS:PORT, as in 127.0.0.1:0: %v: %w", address, err, lab.ErrInvalid)
	}
	ln, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "", fmt.Errorf("port %s of %s is taken; port 0 takes a free one: %w", port, host, lab.ErrBusy)
	case err != nil:
		return "", fmt.Errorf("%s: %v: %w", address, err, lab.ErrInvalid)
	}
	s.token, s.ln, s.room = rand.Text(), &patient{Listener: ln, room: make(chan struct{}, shareConns)}, make(chan struct{}, shareRequests)
	at := ln.Addr().(*net.TCPAddr)
	if at.IP.IsLoopback() {
		return fmt.Sprintf("http://%s/%s", at, s.token), nil
	}
	cert, pin, err := ownCertificate()
	if err != nil {
		return "", errors.Join(err, ln.Close())
	}
	s.secure = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	if at.IP.IsUnspecified() { // every address; the one that has a name for others is the host's
		host = thisHost()
	}
	return fmt.Sprintf("https://%s/%s#%s", net.JoinHostPort(host, strconv.Itoa(at.Port)), s.token, hex.EncodeToString(pin)), nil
}

// Run answers until ctx ends, closes the port, and returns when every request has ended.
func (s *Share) Run(ctx context.Context) error {
	s.gone = ctx
	h := &http.Server{
		Handler:           s.guard(s.routes()),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       shareStill,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	ln := s.ln
	if s.secure != nil {
		ln = tls.NewListener(ln, s.secure)
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(ln) }()
	var err error
	select {
	case err = <-served:
		served <- err
	case <-ctx.Done():
		err = ctx.Err()
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if h.Shutdown(grace) != nil {
		h.Close()
	}
	<-served
	for range cap(s.room) { // every request that was inside
		s.room <- struct{}{}
	}
	return err
}

func (s *Share) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /version", s.version)
	mux.HandleFunc("GET /manifest", s.manifest)
	mux.HandleFunc("POST /chunks", s.chunks)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		s.refuse(w, fmt.Errorf("a share has nothing of that name; its carte may be another version: %w", lab.ErrNotFound))
	})
	return mux
}

// guard lets through who knows the token, and so many at a time.
func (s *Share) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) != 1 {
			s.Log.Warn("a share was asked with another token", "from", r.RemoteAddr)
			s.refuse(w, fmt.Errorf("this address is not, or no longer, good; carte image serve prints the one that is: %w", lab.ErrDenied))
			return
		}
		select {
		case s.room <- struct{}{}:
		case <-r.Context().Done():
			return
		}
		defer func() { <-s.room }()
		r.URL.Path = "/" + path
		next.ServeHTTP(w, r)
	})
}

func (s *Share) refuse(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(lab.FailingOf(err).HTTP)
	if _, err := w.Write(asJSON(failed{ErrorOf(err)})); err != nil {
		s.Log.Debug("error not delivered", "err", err)
	}
}

// moving lets a client stand still for a while from now on.
func moving(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(shareStill)) // a writer that has none cannot hang
}

func (s *Share) version(w http.ResponseWriter, r *http.Request) {
	var v lab.Version
	ref, err := lab.ParseRef(r.FormValue("ref"))
	if err == nil {
		v, err = s.find(r.Context(), ref)
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	v.Author, v.Message = "", ""
	moving(w)
	w.Header().Set("Content-Type", "application/json")
	if _, err := w.Write(asJSON(v)); err != nil {
		s.Log.Debug("version not delivered", "err", err)
	}
}

// find is Snapshot.Version, and names nothing else that the lab has.
func (s *Share) find(ctx context.Context, ref lab.Ref) (lab.Version, error) {
	snap, err := s.Depot.Watch(ctx, 0)
	if err != nil {
		return lab.Version{}, err
	}
	v, err := snap.Version(ref)
	if errors.Is(err, lab.ErrNotFound) {
		err = fmt.Errorf("the lab at that address has no %s: %w", ref, lab.ErrNotFound)
	}
	return v, err
}

func (s *Share) manifest(w http.ResponseWriter, r *http.Request) {
	root, err1 := chunk.ParseID(r.FormValue("root"))
	size, err2 := number(r, "size")
	err := errors.Join(err1, err2)
	var m chunk.Manifest
	if err == nil {
		m, err = s.load(r.Context(), root, size)
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	b := m.Encode()
	moving(w)
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	if _, err := w.Write(b); err != nil {
		s.Log.Debug("manifest not delivered", "err", err)
	}
}

// load reads the manifest of a version of the lab; no other is there for a share. A size of 0 is any.
func (s *Share) load(ctx context.Context, root chunk.ID, size int64) (m chunk.Manifest, err error) {
	snap, err := s.Depot.Watch(ctx, 0)
	if err != nil {
		return m, err
	}
	for _, v := range snap.Versions {
		if v.Root == root && (size == 0 || v.Bytes == size) {
			return s.Depot.Manifest(ctx, root, v.Bytes)
		}
	}
	return m, fmt.Errorf("the lab at that address has no version with the root %v: %w", root, lab.ErrNotFound)
}

// chunks answers with frames. What goes wrong after the first is told in the trailer.
func (s *Share) chunks(w http.ResponseWriter, r *http.Request) {
	ids, err := readIDs(http.MaxBytesReader(w, r.Body, lab.MaxChunksAsked*int64(len(chunk.ID{}))))
	if err == nil {
		err = s.listed(r.Context(), r.URL.Query()["root"], ids)
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Trailer", trailerResult)
	out := bufio.NewWriterSize(w, 256<<10)
	_, err = s.Depot.Chunks(r.Context(), ids, func(id chunk.ID, stored []byte) error {
		moving(w)
		return chunk.WriteFrame(out, id, stored)
	})
	err = errors.Join(err, out.Flush())
	result := resultOK
	if err != nil {
		result = string(asJSON(failed{ErrorOf(err)}))
	}
	w.Header().Set(trailerResult, result)
}

// listed refuses chunks that are in none of the manifests.
func (s *Share) listed(ctx context.Context, roots []string, ids []chunk.ID) error {
	if len(roots) > shareRoots {
		return fmt.Errorf("%d roots at a time, %d is the most: %w", len(roots), shareRoots, lab.ErrInvalid)
	}
	left := ids
	for _, text := range roots {
		root, err := chunk.ParseID(text)
		if err != nil {
			return fmt.Errorf("root: %v: %w", err, lab.ErrInvalid)
		}
		have, err := s.idsOf(ctx, root)
		if err != nil {
			return err
		}
		var not []chunk.ID
		for _, id := range left {
			if _, ok := slices.BinarySearchFunc(have, id, compareIDs); !ok {
				not = append(not, id)
			}
		}
		if left = not; len(left) == 0 {
			return nil
		}
	}
	if len(left) == 0 {
		return nil
	}
	return fmt.Errorf("chunk %v is in no version that was named: %w", left[0], lab.ErrDenied)
}

// idsOf are the chunks of a manifest, rising; those of the last few that were asked for are at hand.
func (s *Share) idsOf(ctx context.Context, root chunk.ID) ([]chunk.ID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.roots, func(r sortedRoot) bool { return r.root == root }); i >= 0 {
		r := s.roots[i]
		s.roots = append(slices.Delete(s.roots, i, i+1), r)
		return r.ids, nil
	}
	m, err := s.load(ctx, root, 0)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(m.IDs, compareIDs)
	if len(s.roots) == shareRoots {
		s.roots = slices.Delete(s.roots, 0, 1)
	}
	s.roots = append(s.roots, sortedRoot{root, slices.Clip(slices.Compact(m.IDs))})
	return s.roots[len(s.roots)-1].ids, nil
}
