package netboot

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"carte/lab"
	"carte/lab/chunk"
)

// What agents ask, over TLS with a pinned key. Only what is in a request's token or bearer key, and what the lab has
// written down about that, gives a right; the lab checks both.

// serveAPI serves agents on one listener, which it closes. HTTP/1.1 alone: chunks are one large body after another.
func (s *Server) serveAPI(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+lab.PathClaim, s.claim)
	mux.HandleFunc("POST "+lab.PathReport, s.report)
	mux.HandleFunc("GET "+lab.PathManifest+"{root}", s.manifest)
	mux.HandleFunc("POST "+lab.PathChunks, s.chunks)
	mux.HandleFunc("POST "+lab.PathGive, s.give)
	mux.HandleFunc("POST "+lab.PathLacks, s.lacks)
	mux.HandleFunc("POST "+lab.PathTake, s.take)
	mux.HandleFunc("POST "+lab.PathKeep, s.keep)
	mux.HandleFunc("POST "+lab.PathStage, s.stage)
	mux.HandleFunc("POST "+lab.PathOut, s.out)
	mux.HandleFunc("POST "+lab.PathBack+"{image}", s.back)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.refuse(w, r, fmt.Errorf("%s %s is nothing that agents ask: %w", r.Method, r.URL.Path, lab.ErrNotFound))
	})
	h := s.server("api", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if path.Clean(r.URL.Path) != r.URL.Path { // the mux would send the client to where it points
			s.refuse(w, r, fmt.Errorf("%q is nothing that agents ask: %w", r.URL.Path, lab.ErrNotFound))
			return
		}
		mux.ServeHTTP(w, r)
	}))
	h.TLSConfig = &tls.Config{Certificates: []tls.Certificate{s.cfg.Cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	h.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	return serve(ctx, l, h, func(h *http.Server, l net.Listener) error { return h.ServeTLS(l, "", "") })
}

func (s *Server) claim(w http.ResponseWriter, r *http.Request) {
	var c lab.Claim
	if err := readJSON(w, r, &c); err != nil {
		s.refuse(w, r, err)
		return
	}
	o, err := s.cfg.Lab.Claim(r.Context(), c)
	if err != nil {
		s.cfg.Lab.Log(lab.Line{Source: "http", Text: fmt.Sprintf("claim from %s refused: %v", remote(r), err)})
		s.refuse(w, r, err)
		return
	}
	s.sendJSON(w, o)
}

func (s *Server) report(w http.ResponseWriter, r *http.Request) {
	var report lab.Report
	key, err := bearer(r)
	if err == nil {
		err = readJSON(w, r, &report)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	reply, err := s.cfg.Lab.Report(r.Context(), key, report)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.sendJSON(w, reply)
}

func (s *Server) manifest(w http.ResponseWriter, r *http.Request) {
	root, err := chunk.ParseID(r.PathValue("root"))
	if err != nil {
		s.refuse(w, r, fmt.Errorf("%v: %w", err, lab.ErrInvalid))
		return
	}
	roots, err := s.allowed(r)
	if err == nil && !slices.Contains(roots, root) {
		err = fmt.Errorf("manifest %v is not in this boot's plan: %w", root, lab.ErrDenied)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	m, err := s.cfg.Chunks.Manifest(root)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	s.sendBytes(w, m.Encode())
}

func (s *Server) sendBytes(w http.ResponseWriter, b []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	// An agent that does not get it whole asks again.
	_, _ = w.Write(b)
}

// chunks sends the chunks that the body names, as frames in that order. All of them are checked before the first is
// sent. When a chunk cannot be read after that, the connection is cut: half an answer must not look like a whole one.
func (s *Server) chunks(w http.ResponseWriter, r *http.Request) {
	roots, err := s.allowed(r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	ids, err := readIDs(w, r, lab.MaxChunksAsked)
	if err == nil {
		err = s.roots.check(roots, ids)
	}
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if err := s.sendChunks(w, ids); err != nil {
		s.refuse(w, r, err)
	}
}

// allowed returns the roots that the request's key may read.
func (s *Server) allowed(r *http.Request) ([]chunk.ID, error) {
	key, err := bearer(r)
	if err != nil {
		return nil, err
	}
	return s.cfg.Lab.Allowed(r.Context(), key)
}

func bearer(r *http.Request) (string, error) {
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || key == "" {
		return "", fmt.Errorf("the request has no key: %w", lab.ErrDenied)
	}
	return key, nil
}

func readJSON(w http.ResponseWriter, r *http.Request, to any) error {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, lab.MaxMessage))
	if err := d.Decode(to); err != nil {
		return badBody(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("body: something follows the JSON: %w", lab.ErrInvalid)
	}
	return nil
}

func readIDs(w http.ResponseWriter, r *http.Request, most int) ([]chunk.ID, error) {
	const size = len(chunk.ID{})
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, int64(most*size)))
	if err != nil {
		return nil, badBody(err)
	}
	if len(b) == 0 || len(b)%size != 0 {
		return nil, fmt.Errorf("body of %d bytes: chunk ids have %d bytes each: %w", len(b), size, lab.ErrInvalid)
	}
	ids := make([]chunk.ID, len(b)/size)
	for i := range ids {
		copy(ids[i][:], b[i*size:])
	}
	return ids, nil
}

// badBody makes an error of reading a body one of the client's.
func badBody(err error) error {
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return fmt.Errorf("body: more than %d bytes: %w", large.Limit, lab.ErrInvalid)
	}
	return fmt.Errorf("body: %v: %w", err, lab.ErrInvalid)
}

func (s *Server) sendJSON(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("BUG: %T as JSON: %v", v, err))
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	// An agent that does not get it whole asks again.
	_, _ = w.Write(b)
}

// refuse answers with an error of the lab's table. What is not in the table is carte's own trouble: machines are not
// told its paths.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	f := lab.FailingOf(err)
	message := err.Error()
	if f.Kind == nil {
		s.cfg.Log.Error("api: request", "method", r.Method, "path", r.URL.Path, "from", remote(r), "err", err)
		message = "carte failed; its log says why"
	}
	var body struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	body.Error.Code, body.Error.Message = f.Code, message
	b, err := json.Marshal(body)
	if err != nil {
		panic("BUG: an error as JSON: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.HTTP)
	_, _ = w.Write(b) // the answer is an error already
}

// roots remembers which chunks belong to the manifests that are read just now.
type roots struct {
	source ChunkSource
	mu     sync.Mutex // also: a manifest is read once for fifty agents that ask at once
	sets   *lru.Cache[chunk.ID, map[chunk.ID]struct{}]
}

// keptRoots is how many manifests are remembered. One of 10 GB of content takes about 2 MB.
const keptRoots = 16

func newRoots(source ChunkSource) *roots {
	sets, err := lru.New[chunk.ID, map[chunk.ID]struct{}](keptRoots)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return &roots{source: source, sets: sets}
}

// check returns an error unless every id is a chunk of one of the manifests.
func (r *roots) check(roots, ids []chunk.ID) error {
	sets := make([]map[chunk.ID]struct{}, len(roots))
	for i, root := range roots {
		var err error
		if sets[i], err = r.set(root); err != nil {
			return err
		}
	}
	for _, id := range ids {
		found := false
		for _, set := range sets {
			if _, ok := set[id]; ok {
				found = true
				break
			}
		}
		if !found {
			return fmt.Errorf("chunk %v is not in this boot's plan: %w", id, lab.ErrDenied)
		}
	}
	return nil
}

func (r *roots) set(root chunk.ID) (map[chunk.ID]struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if set, ok := r.sets.Get(root); ok {
		return set, nil
	}
	m, err := r.source.Manifest(root)
	if err != nil {
		return nil, err
	}
	set := make(map[chunk.ID]struct{}, len(m.IDs))
	for _, id := range m.IDs {
		if !id.Implied() {
			set[id] = struct{}{}
		}
	}
	r.sets.Add(root, set)
	return set, nil
}
