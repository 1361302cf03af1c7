package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// A server that speaks the wire's words and nothing more. The real one is tried in lab/labtest.
type server struct {
	*httptest.Server
	t      *testing.T
	orders lab.Orders
	reply  func(lab.Report) lab.Reply              // may be nil
	serve  func(id chunk.ID, stored []byte) []byte // what is sent for a chunk; nil sends it as it is

	mu      sync.Mutex
	m       map[chunk.ID]chunk.Manifest
	stored  map[chunk.ID][]byte
	key     string
	reports []lab.Report
	asked   []chunk.ID
	writing bool
}

// newServer starts a server over TLS; wrap, when not nil, wraps its listener.
func newServer(t *testing.T, wrap func(net.Listener) net.Listener) *server {
	s := &server{t: t, m: map[chunk.ID]chunk.Manifest{}, stored: map[chunk.ID][]byte{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+lab.PathClaim, s.claim)
	mux.HandleFunc("POST "+lab.PathReport, s.report)
	mux.HandleFunc("GET "+lab.PathManifest+"{root}", s.manifest)
	mux.HandleFunc("POST "+lab.PathChunks, s.chunks)
	s.Server = httptest.NewUnstartedServer(mux)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // cut connections are the point
	if wrap != nil {
		s.Listener = wrap(s.Listener)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// add makes b an image that the server has, and returns its root.
func (s *server) add(b []byte) chunk.ID {
	var m chunk.Manifest
	m.Size = int64(len(b))
	for c := range slices.Chunk(b, chunk.Size) {
		id := chunk.Sum(c)
		m.IDs = append(m.IDs, id)
		if !id.IsZero() {
			s.stored[id] = chunk.Pack(nil, c)
		}
	}
	s.m[m.Root()] = m
	return m.Root()
}

func (s *server) pin() string {
	sum := sha256.Sum256(s.Certificate().Raw)
	return hex.EncodeToString(sum[:])
}

func deny(w http.ResponseWriter, err error) {
	f := lab.FailingOf(err)
	w.WriteHeader(f.HTTP)
	fmt.Fprintf(w, `{"error":{"code":%q,"message":%q}}`, f.Code, err.Error())
}

func (s *server) claim(w http.ResponseWriter, r *http.Request) {
	var c lab.Claim
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
		return // cut off
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.Token != "1.1.good" || s.key != "" && s.key != c.Key {
		deny(w, fmt.Errorf("the token was used already: %w", lab.ErrDenied))
		return
	}
	s.key = c.Key
	json.NewEncoder(w).Encode(s.orders)
}

// mine says whether the request carries the claimed key.
func (s *server) mine(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key == "" || r.Header.Get("Authorization") != "Bearer "+s.key {
		deny(w, fmt.Errorf("this key is no longer an agent's: %w", lab.ErrDenied))
		return false
	}
	return true
}

func (s *server) report(w http.ResponseWriter, r *http.Request) {
	var rep lab.Report
	if !s.mine(w, r) || json.NewDecoder(r.Body).Decode(&rep) != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, rep)
	if rep.Writing {
		s.writing = true
	}
	var reply lab.Reply
	if s.reply != nil {
		reply = s.reply(rep)
	}
	json.NewEncoder(w).Encode(reply)
}

func (s *server) manifest(w http.ResponseWriter, r *http.Request) {
	root, err := chunk.ParseID(r.PathValue("root"))
	if m, ok := s.m[root]; s.mine(w, r) && ok && err == nil {
		w.Write(m.Encode())
	}
}

func (s *server) chunks(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if !s.mine(w, r) || err != nil {
		return
	}
	for raw := range slices.Chunk(b, len(chunk.ID{})) {
		id := chunk.ID(raw)
		s.mu.Lock()
		s.asked = append(s.asked, id)
		stored, serve := s.stored[id], s.serve
		s.mu.Unlock()
		if serve != nil {
			stored = serve(id, stored)
		}
		if chunk.WriteFrame(w, id, stored) != nil {
			return
		}
	}
}

// rungs lists the rungs in the order in which they were first reported.
func (s *server) rungs() (all []lab.Rung) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.reports {
		if r.Rung != "" && !slices.Contains(all, r.Rung) {
			all = append(all, r.Rung)
		}
	}
	return all
}

// last returns the last report for which is holds.
func (s *server) last(is func(lab.Report) bool) (r lab.Report, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.reports {
		if is(x) {
			r, ok = x, true
		}
	}
	return r, ok
}

// cutter cuts every connection after a number of bytes that next chooses, counted in both directions.
type cutter struct {
	net.Listener
	next func() int64
}

func (c cutter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &cutConn{Conn: conn, left: c.next()}, nil
}

type cutConn struct {
	net.Conn
	mu   sync.Mutex
	left int64
}

func (c *cutConn) take(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := min(int64(n), c.left)
	c.left -= k
	return int(k)
}

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.take(n) < n {
		c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

func (c *cutConn) Write(b []byte) (int, error) {
	k := c.take(len(b))
	n, err := c.Conn.Write(b[:k])
	if err == nil && k < len(b) {
		c.Conn.Close()
		err = net.ErrClosed
	}
	return n, err
}

// watched is a disk that fails the test when it is changed before the server knows, and fails on demand.
type watched struct {
	Disk
	s    *server
	fail func(op string, off int64) error
}

func (d watched) may(op string, off int64) error {
	d.s.mu.Lock()
	writing := d.s.writing
	d.s.mu.Unlock()
	if !writing && op != "read" {
		d.s.t.Errorf("%s at %d before the server knows that writing begins", op, off)
	}
	if d.fail != nil {
		return d.fail(op, off)
	}
	return nil
}

func (d watched) WriteAt(b []byte, off int64) (int, error) {
	if err := d.may("write", off); err != nil {
		return 0, err
	}
	return d.Disk.WriteAt(b, off)
}

func (d watched) Zero(off, n int64) error {
	if err := d.may("zero", off); err != nil {
		return err
	}
	return d.Disk.Zero(off, n)
}

func (d watched) ReadAt(b []byte, off int64) (int, error) {
	if err := d.may("read", off); err != nil {
		return 0, err
	}
	return d.Disk.ReadAt(b, off)
}

// machine is one that is made of a file.
type machine struct {
	t       *testing.T
	s       *server
	path    string
	id      lab.DiskID
	fail    func(op string, off int64) error
	node    func(lab.DiskID) (string, error) // Options.Node
	started []lab.Orders
}

// lines is all that the agent has said.
func (s *server) lines() (all []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.reports {
		all = append(all, r.Lines...)
	}
	return all
}

// newMachine has a disk that holds disk, and orders to boot image from it.
func newMachine(t *testing.T, s *server, disk []byte, image chunk.ID, size int) *machine {
	m := &machine{t: t, s: s, path: filepath.Join(t.TempDir(), "disk"), id: lab.DiskID{Serial: "test", Bytes: int64(len(disk))}}
	if err := os.WriteFile(m.path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	s.orders = lab.Orders{
		Do: lab.DoBoot, Machine: "m", Boot: 7, Stack: "st", Form: lab.FormDisk, Start: lab.StartDisk, Disk: m.id,
		Writes: []lab.Write{{Ref: lab.Ref{Name: "im", Version: 1}, Root: image, Bytes: int64(size)}},
	}
	return m
}

func (m *machine) options() Options {
	return Options{
		Node: m.node, Server: m.s.URL, Pin: m.s.pin(), Token: "1.1.good", Interval: 8 * time.Millisecond,
		Inventory: func() (lab.Inventory, error) {
			return lab.Inventory{Disks: []lab.Disk{{DiskID: m.id, Path: "/dev/test"}}}, nil
		},
		OpenDisk: func(id lab.DiskID) (Disk, error) {
			if id != m.id {
				return nil, fmt.Errorf("no disk %s: %w", id, lab.ErrNotFound)
			}
			d, err := OpenFile(m.path)
			return watched{d, m.s, m.fail}, err
		},
		Handover: func(_ context.Context, o lab.Orders) error {
			if o.Do == lab.DoBoot {
				if _, ok := m.s.last(func(r lab.Report) bool { return r.Rung == lab.RungHandover }); !ok {
					m.t.Error("handed over before the server knew")
				}
			}
			m.started = append(m.started, o)
			return nil
		},
	}
}

// run lives an agent's life from its claim.
func (m *machine) run() error {
	m.s.mu.Lock()
	m.s.key, m.s.reports, m.s.asked, m.s.writing = "", nil, nil, false
	m.s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return Run(ctx, m.options())
}

func (m *machine) disk() []byte {
	b, err := os.ReadFile(m.path)
	if err != nil {
		m.t.Fatal(err)
	}
	return b
}

// noise returns n bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

var errDisk = errors.New("input/output error")
