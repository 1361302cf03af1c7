package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"carte/lab"
)

// maxVerb is the most bytes that a verb's JSON may have.
const maxVerb = maxStack

// shutdownGrace is how long requests have to end by themselves when the server stops. They are told; none should need it.
const shutdownGrace = 2 * time.Second

// Server serves a lab to the people of this computer.
type Server struct {
	Desk    lab.Desk
	Dir     string // the state folder
	Version string
	Log     *slog.Logger

	ln     *net.UnixListener
	peer   func(*net.UnixConn) (uint32, error) // who is there; for tests
	gone   context.Context                     // Run's
	wg     sync.WaitGroup
	inside atomic.Int32 // requests going on
}

// Listen makes the socket, with which only this user and root can connect. It fails when a lab runs in the folder.
func (s *Server) Listen() (err error) {
	s.ln, err = listen(s.Dir)
	return err
}

// Run serves until ctx ends, lets go of the socket, and returns when every request has ended.
func (s *Server) Run(ctx context.Context) error {
	s.gone = ctx
	h := &http.Server{
		Handler:           s.guard(s.routes()),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       s.meet,
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(s.ln) }()
	var err error
	select {
	case err = <-served:
		served <- err
	case <-ctx.Done():
		err = ctx.Err()
	}
	// The name goes before the listener: a server that starts now meets either none or one that still answers.
	if gone := os.Remove(filepath.Join(s.Dir, SocketName)); gone != nil && !errors.Is(gone, os.ErrNotExist) {
		s.Log.Warn("socket not removed", "err", gone)
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if h.Shutdown(grace) != nil {
		h.Close()
	}
	<-served
	s.wg.Wait()
	return err
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /verb/{name}", s.answers(s.say))
	mux.HandleFunc("GET /watch", s.answers(s.watch))
	mux.HandleFunc("GET /tail", s.answers(s.tail))
	mux.HandleFunc("POST /image/import", s.importImage)
	mux.HandleFunc("GET /image/export", s.export)
	mux.HandleFunc("POST /image/verify", s.verify)
	mux.HandleFunc("POST /gc", s.answers(s.collect))
	mux.HandleFunc("POST /fsck", s.fsck)
	mux.HandleFunc("POST /image/capture", s.capture)
	mux.HandleFunc("GET /chunk/manifest", s.manifest)
	mux.HandleFunc("POST /chunk/read", s.chunks)
	mux.HandleFunc("POST /chunk/lacks", s.lacks)
	mux.HandleFunc("POST /stack/judge", s.answers(s.judge))
	mux.HandleFunc("GET /stack/export", s.exportStack)
	mux.HandleFunc("POST /stack/import", s.importStack)
	mux.HandleFunc("GET /boot/results", s.results)
	mux.HandleFunc("POST /machine/type", s.answers(s.typeKeys))
	mux.HandleFunc("GET /doctor", s.answers(s.doctor))
	mux.HandleFunc("GET /version", s.answers(s.version))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, fmt.Errorf("%s %s: %w; this carte and that one may differ: carte version", r.Method, r.URL.Path, lab.ErrNotFound))
	})
	return mux
}

type peerKey struct{}

// peerOf is who is at the other end of a connection, or why nobody can tell.
type peerOf struct {
	uid uint32
	err error
}

func (s *Server) meet(ctx context.Context, c net.Conn) context.Context {
	ask := s.peer
	if ask == nil {
		ask = peerUID
	}
	p := peerOf{err: errors.New("not a unix socket")}
	if u, ok := c.(*net.UnixConn); ok {
		p.uid, p.err = ask(u)
	}
	return context.WithValue(ctx, peerKey{}, p)
}

// guard lets through whom the lab belongs to, and counts requests.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.wg.Add(1)
		defer s.wg.Done()
		s.inside.Add(1)
		defer s.inside.Add(-1)
		p, _ := r.Context().Value(peerKey{}).(peerOf)
		if p.err != nil {
			s.refuse(w, fmt.Errorf("who asks: %v: %w", p.err, lab.ErrDenied))
			return
		}
		if p.uid != 0 && p.uid != uint32(os.Getuid()) {
			s.Log.Warn("refused at the socket", "uid", p.uid)
			s.refuse(w, fmt.Errorf("this lab belongs to user %d, not to you (%d): %w", os.Getuid(), p.uid, lab.ErrDenied))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) refuse(w http.ResponseWriter, err error) {
	err = s.explain(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(lab.FailingOf(err).HTTP)
	if err := json.NewEncoder(w).Encode(failed{ErrorOf(err)}); err != nil {
		s.Log.Debug("error not delivered", "err", err)
	}
}

// explain makes the end of the server, which is a cancel in here, what it is for the client.
func (s *Server) explain(err error) error {
	if s.gone.Err() != nil && errors.Is(err, context.Canceled) {
		return fmt.Errorf("the lab has stopped: %w", lab.ErrUnreachable)
	}
	return err
}

// answers makes a handler of what answers with one JSON value, or refuses.
func (s *Server) answers(ask func(http.ResponseWriter, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := ask(w, r)
		if err != nil {
			s.refuse(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(v); err != nil {
			s.Log.Debug("answer not delivered", "err", err)
		}
	}
}

func (s *Server) version(http.ResponseWriter, *http.Request) (any, error) {
	return Version{s.Version, os.Getpid(), s.Dir}, nil
}

func (s *Server) say(w http.ResponseWriter, r *http.Request) (any, error) {
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxVerb))
	if err != nil {
		return nil, fmt.Errorf("verb %s: %v: %w", r.PathValue("name"), err, lab.ErrInvalid)
	}
	v, err := lab.ParseVerb(r.PathValue("name"), text)
	if err != nil {
		return nil, err
	}
	return s.Desk.Say(r.Context(), v)
}

func (s *Server) watch(_ http.ResponseWriter, r *http.Request) (any, error) {
	after, err := number(r, "after")
	if err != nil {
		return nil, err
	}
	return s.Desk.Watch(r.Context(), uint64(after))
}

func (s *Server) tail(_ http.ResponseWriter, r *http.Request) (any, error) {
	machine, err1 := number(r, "machine")
	after, err2 := number(r, "after")
	most, err3 := number(r, "max")
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	t := lab.Tail{Machine: machine, After: after, Max: int(most), Wait: r.FormValue("wait") == "true"}
	lines, next, lost, err := s.Desk.Tail(r.Context(), t)
	return tailed{lines, next, lost}, err
}

func (s *Server) doctor(_ http.ResponseWriter, r *http.Request) (any, error) {
	f, err := s.Desk.Doctor(r.Context())
	return found{f}, err
}

// number reads a parameter that is a number from 0; 0 when it is missing.
func number(r *http.Request, name string) (int64, error) {
	v := r.FormValue(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s=%q is not a number from 0: %w", name, v, lab.ErrInvalid)
	}
	return n, nil
}
