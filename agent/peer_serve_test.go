package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// sharedDisk has a swarm that hands out an image of which the disk holds all but the chunk in the middle, and a pool that wants
// all of it.
func sharedDisk(t *testing.T, image []byte) (s *swarm, path string, want *pool) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	m, err := chunk.Scan(t.Context(), bytes.NewReader(image), nil)
	if err != nil {
		t.Fatal(err)
	}
	write := lab.Write{Ref: lab.Ref{Name: "im", Version: 1}, Root: m.Root(), Bytes: m.Size}
	has := newPart(write, m)
	for i := range has.state {
		has.state[i] = same
	}
	has.state[len(has.state)/2] = other
	quiet := func(string, ...any) {}
	if s, err = newSwarm("https://127.0.0.1:1", quiet); err != nil {
		t.Fatal(err)
	}
	newPool(&flash{disk: d, parts: []part{has}}).join(s)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("serve ended with %v", err)
		}
		if conn, err := net.Dial("tcp", s.me.Addr); err == nil {
			conn.Close()
			t.Error("somebody still listens")
		}
	})
	target := filepath.Join(t.TempDir(), "target")
	if err := os.WriteFile(target, make([]byte, len(image)), 0o600); err != nil {
		t.Fatal(err)
	}
	to, err := OpenFile(target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { to.Close() })
	counts := &counts{}
	f := &flash{counts: counts, teller: alone{counts, Audience{}}, disk: to, parts: []part{newPart(write, m)}}
	f.pool = newPool(f)
	return s, path, f.pool
}

// bundleOf is one that asks for chunks of the first image.
func bundleOf(p *pool, numbers ...int) *bundle {
	b := &bundle{places: map[chunk.ID][]place{}}
	for _, k := range numbers {
		p.take(b, k, mostAsked)
	}
	return b
}

func TestPeerServes(t *testing.T) {
	image := joined(noise(1, 2*c), make([]byte, c), noise(2, 5*c), noise(3, 999))
	s, path, want := sharedDisk(t, image)
	q, err := newPeer(s.me)
	if err != nil {
		t.Fatal(err)
	}
	have, phase, err := q.ask(t.Context(), want)
	if err != nil || phase != fetching || len(have) != 1 || have[0] != 0b1_1110_1011 {
		t.Fatalf("it has %b, phase %d: %v", have, phase, err)
	}
	w := newWriter(want.f)
	w.wire = &want.f.peers
	b := bundleOf(want, 0, 1, 3, 4, 8)
	rest, err := q.take(t.Context(), w, b)
	if !errors.Is(err, errLacks) || len(rest) != 1 || rest[0] != chunk.Sum(image[4*c:5*c]) {
		t.Errorf("it did not bring %v: %v, want that chunk 4 is not there", rest, err)
	}
	got := make([]byte, len(image))
	if _, err := want.f.disk.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if wanted := joined(image[:4*c], make([]byte, 4*c), image[8*c:]); !bytes.Equal(got, wanted) {
		t.Error("what came is not what was asked for")
	}
	if n := want.f.peers.Load(); n < 3*c || want.f.fetched.Load() != 0 {
		t.Errorf("%d bytes counted as from others, %d from the server", n, want.f.fetched.Load())
	}

	// A disk that lost a chunk does not hand it out.
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("x"), 5*c+7); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if rest, err = q.take(t.Context(), w, bundleOf(want, 5, 6)); !errors.Is(err, errLacks) || len(rest) != 1 {
		t.Errorf("it did not bring %v: %v, want that chunk 5 is not sent", rest, err)
	}
	if have, _, _ := q.ask(t.Context(), want); have[0] != 0b1_1100_1011 {
		t.Errorf("it has %b after it lost a chunk", have)
	}
}

// Nothing is to be had with the wrong token, outside the plan, or without a disk.
func TestPeerRefuses(t *testing.T) {
	image := noise(1, 9*c)
	s, _, want := sharedDisk(t, image)
	for name, change := range map[string]func(*lab.Peer){
		"token": func(x *lab.Peer) { x.Token = strings.Repeat("0", 64) },
		"none":  func(x *lab.Peer) { x.Token = "" },
		"pin":   func(x *lab.Peer) { x.Pin = strings.Repeat("0", 64) },
	} {
		x := s.me
		change(&x)
		q, err := newPeer(x)
		if err != nil {
			t.Fatal(err)
		}
		if have, _, err := q.ask(t.Context(), want); !errors.Is(err, errGone) {
			t.Errorf("wrong %s: %b, %v", name, have, err)
		}
	}
	q, err := newPeer(s.me)
	if err != nil {
		t.Fatal(err)
	}
	status := func(method, path string, body []byte) (code, n int) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, "https://"+s.me.Addr+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.me.Token)
		resp, err := q.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, len(got)
	}
	root, foreign := want.f.parts[0].Write.Root.String(), chunk.Sum([]byte("another plan")).String()
	for _, tt := range []struct {
		method, path string
		body         []byte
		want         int
	}{
		{"GET", pathHave + foreign, nil, 404},
		{"POST", pathChunks + foreign, make([]byte, 4), 404},
		{"GET", pathHave + "zz", nil, 400},
		{"POST", pathChunks + root, make([]byte, 4*mostAsked+4), 400},
		{"POST", pathChunks + root, make([]byte, 5), 400},
		{"POST", pathChunks + root, []byte{9, 0, 0, 0}, 200}, // behind the end
		{"POST", pathChunks + root, []byte{255, 255, 255, 255}, 200},
		{"GET", "/v1/report", nil, 404},
	} {
		if code, n := status(tt.method, tt.path, tt.body); code != tt.want || code == 200 && n != 0 {
			t.Errorf("%s %s %x: %d with %d bytes, want %d and nothing", tt.method, tt.path, tt.body, code, n, tt.want)
		}
	}
	for range servedAtOnce {
		s.slots <- struct{}{}
	}
	if code, _ := status("POST", pathChunks+root, make([]byte, 4)); code != 503 {
		t.Errorf("one request too many is answered %d", code)
	}
	<-s.slots
	if code, n := status("POST", pathChunks+root, make([]byte, 4)); code != 200 || n < c {
		t.Errorf("a chunk is answered %d with %d bytes", code, n)
	}
	s.unshelve()
	if code, _ := status("POST", pathChunks+root, make([]byte, 4)); code != 204 {
		t.Errorf("without a disk it answers %d", code)
	}
}

// The memory of what is kept for others has an end.
func TestRecent(t *testing.T) {
	r := newRecent()
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			for i := range 60 {
				b := noise(uint64(1000*g+i), chunk.Size)
				r.put(chunk.Sum(b), b)
				r.put(chunk.Sum(b), b)
			}
		})
	}
	all.Wait()
	sum := 0
	for _, b := range r.lru.Values() {
		sum += len(b)
	}
	if sum != r.bytes || sum > recentBytes || sum < recentBytes-2*chunk.Size {
		t.Errorf("%d bytes are kept, counted %d, of %d", sum, r.bytes, recentBytes)
	}
}

// All compute the same owner of a chunk, every one of them owns about as much, and who goes leaves the others theirs.
func TestPeerOwners(t *testing.T) {
	image := make([]byte, 2048*c)
	for i := range 2048 {
		binary.LittleEndian.PutUint64(image[i*c:], uint64(i+1))
	}
	m, err := chunk.Scan(t.Context(), bytes.NewReader(image), nil)
	if err != nil {
		t.Fatal(err)
	}
	tokens := []string{"a", "b", "c", "d"}
	var owners [4][]string
	for self := range tokens {
		p := newPool(&flash{parts: []part{newPart(lab.Write{Root: m.Root(), Bytes: m.Size}, m)}})
		p.seed = seedOf(tokens[self])
		some := mask(0)
		for i, token := range tokens {
			if i != self {
				p.peers[i], some = &peer{seed: seedOf(token)}, some|1<<i
			}
		}
		for k := range 2048 {
			who := p.owner(k, some)
			if who == me {
				who = self
			}
			owners[self] = append(owners[self], tokens[who])
			if left := p.owner(k, some&^(1<<who)); who != self && left == who {
				t.Fatal("who is gone still owns")
			}
		}
	}
	count := map[string]int{}
	for k := range 2048 {
		for self := range tokens {
			if owners[self][k] != owners[0][k] {
				t.Fatalf("chunk %d is %s's and %s's", k, owners[self][k], owners[0][k])
			}
		}
		count[owners[0][k]]++
	}
	for _, token := range tokens {
		if count[token] < 350 || count[token] > 680 {
			t.Errorf("%s owns %d of 2048 chunks", token, count[token])
		}
	}
}
