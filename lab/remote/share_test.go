package remote

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// shelf is a depot of two images in memory.
type shelf struct {
	lab.Depot
	mu        sync.Mutex
	snap      lab.Snapshot
	manifests map[chunk.ID]chunk.Manifest
	stored    map[chunk.ID][]byte
	fail      int // Chunks ends after so many; 0: it does not
}

func (s *shelf) Watch(context.Context, uint64) (lab.Snapshot, error) { return s.snap, nil }

func (s *shelf) Manifest(_ context.Context, root chunk.ID, _ int64) (chunk.Manifest, error) {
	m := s.manifests[root]
	m.IDs = slices.Clone(m.IDs)
	return m, nil
}

func (s *shelf) Chunks(_ context.Context, ids []chunk.ID, each func(chunk.ID, []byte) error) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, id := range ids {
		if s.fail > 0 {
			if s.fail--; s.fail == 0 {
				return i, lab.ErrUnreachable
			}
		}
		if err := each(id, s.stored[id]); err != nil {
			return i, err
		}
	}
	return len(ids), nil
}

// add makes data the next version of an image.
func (s *shelf) add(t *testing.T, name string, data []byte) lab.Version {
	t.Helper()
	m, err := chunk.Scan(t.Context(), bytes.NewReader(data), func(_ int, raw []byte) error {
		s.stored[chunk.Sum(raw)] = chunk.Pack(nil, raw)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	v := lab.Version{Image: name, Number: len(s.snap.VersionsOf(name)) + 1, Root: m.Root(), Bytes: m.Size, Author: "someone", Message: "for me alone"}
	s.manifests[v.Root] = m
	s.snap.Images[name] = lab.Image{Name: name, Latest: v.Number}
	s.snap.Versions[v.Ref().String()] = v
	return v
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// sharing runs a share of a shelf until the test ends.
func sharing(t *testing.T, listen string) (*shelf, string) {
	t.Helper()
	s := &shelf{manifests: map[chunk.ID]chunk.Manifest{}, stored: map[chunk.ID][]byte{}}
	s.snap.Images, s.snap.Versions = map[string]lab.Image{}, map[string]lab.Version{}
	share := &Share{Depot: s, Log: slog.New(slog.DiscardHandler)}
	address, err := share.Listen(listen)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- share.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the share ended with %v", err)
		}
	})
	return s, address
}

func open(t *testing.T, address string) *Shared {
	t.Helper()
	c, err := ParseShare(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// fetch reads a whole version as a flash does.
func fetch(t *testing.T, c *Shared, v lab.Version) ([]byte, error) {
	t.Helper()
	m, err := c.Manifest(t.Context(), v.Root, v.Bytes)
	if err != nil {
		return nil, err
	}
	var out []byte
	_, err = c.Chunks(t.Context(), m.IDs, func(id chunk.ID, stored []byte) error {
		raw, err := chunk.UnpackAny(nil, stored, id)
		out = append(out, raw...)
		return err
	})
	return out, err
}

func TestShare(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "0.0.0.0:0"} {
		s, address := sharing(t, listen)
		if listen == "0.0.0.0:0" { // the host's name need not lead here
			before, after, _ := strings.Cut(address, "://")
			address = before + "://127.0.0.1" + after[strings.LastIndex(after, ":"):]
		}
		want := noise(1, 5*chunk.Size+77)
		first, v := s.add(t, "deb", noise(2, chunk.Size)), s.add(t, "deb", want)
		c := open(t, address)
		got, err := c.Version(t.Context(), lab.Ref{Name: "deb"})
		if err != nil || got.Root != v.Root || got.Number != 2 || got.Bytes != v.Bytes || got.Author != "" || got.Message != "" {
			t.Errorf("Version(deb) = %+v, %v", got, err)
		}
		if all, err := c.Earlier(t.Context(), got, 7); err != nil || len(all) != 1 || all[0].Root != first.Root {
			t.Errorf("Earlier = %+v, %v", all, err)
		}
		s.fail = 4 // cut in the middle: the rest is asked for again
		if b, err := fetch(t, c, got); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%s: %d bytes came of %d, %v", listen, len(b), len(want), err)
		}
		if _, err := c.Version(t.Context(), lab.Ref{Name: "deb", Version: 9}); !errors.Is(err, lab.ErrNotFound) || strings.Contains(err.Error(), "there are") {
			t.Errorf("Version(deb@9) = %v", err)
		}
	}
}

func TestShareRefuses(t *testing.T) {
	s, address := sharing(t, "127.0.0.1:0")
	v, other := s.add(t, "deb", noise(1, 2*chunk.Size)), noise(3, 100)
	s.stored[chunk.Sum(other)] = chunk.Pack(nil, other)
	s.manifests[chunk.ID{7}] = chunk.Manifest{Size: 100, IDs: []chunk.ID{chunk.Sum(other)}}

	wrong := open(t, address[:len(address)-1]+"#")
	if _, err := wrong.Version(t.Context(), v.Ref()); !errors.Is(err, lab.ErrDenied) || !strings.Contains(err.Error(), "carte image serve") {
		t.Errorf("another token: %v", err)
	}
	c := open(t, address)
	if _, err := c.Manifest(t.Context(), chunk.ID{7}, 100); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("a manifest of no version: %v", err)
	}
	if _, err := c.Manifest(t.Context(), v.Root, v.Bytes); err != nil {
		t.Fatal(err)
	}
	for _, ids := range [][]chunk.ID{{chunk.Sum(other)}, {s.manifests[v.Root].IDs[0], chunk.Sum(other)}} {
		if got, err := c.Chunks(t.Context(), ids, func(chunk.ID, []byte) error { return nil }); !errors.Is(err, lab.ErrDenied) || got != 0 {
			t.Errorf("a chunk of no version: %d, %v", got, err)
		}
	}
	for _, path := range []string{"", "/", "/verb/boot", "/watch", "/versions", "/chunk/read", "/../watch"} {
		res, err := http.Get(address + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		if res.Body.Close(); res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusUnauthorized || bytes.Contains(b, []byte("deb")) {
			t.Errorf("GET %s: %s %s", path, res.Status, b)
		}
	}
}

// Whoever stands between may change bytes: the hash finds it, and TLS another server.
func TestSharedDamage(t *testing.T) {
	s, address := sharing(t, "127.0.0.1:0")
	v := s.add(t, "deb", noise(1, 2*chunk.Size))
	c := open(t, address)
	for id := range maps.Keys(s.stored) {
		s.stored[id][9] ^= 1
	}
	if _, err := fetch(t, c, v); !errors.Is(err, lab.ErrDamaged) {
		t.Errorf("a tampered chunk: %v", err)
	}
	m := s.manifests[v.Root]
	m.IDs = slices.Clone(m.IDs)
	m.IDs[0][0] ^= 1
	s.manifests[v.Root] = m
	if _, err := c.Manifest(t.Context(), v.Root, v.Bytes); !errors.Is(err, lab.ErrDamaged) {
		t.Errorf("a tampered manifest: %v", err)
	}

	_, secure := sharing(t, "0.0.0.0:0")
	before, pin, _ := strings.Cut(secure, "#")
	port := before[strings.LastIndex(before, ":"):]
	if pin[0] == 'a' {
		pin = "b" + pin[1:]
	} else {
		pin = "a" + pin[1:]
	}
	if _, err := open(t, "https://127.0.0.1"+port+"#"+pin).Version(t.Context(), v.Ref()); !errors.Is(err, lab.ErrDenied) {
		t.Errorf("another certificate: %v", err)
	}
}

func TestParseShare(t *testing.T) {
	for _, x := range []string{"", "http://", "ftp://127.0.0.1/x", "http://127.0.0.1:1", "http://127.0.0.1:1/a/b", "http://10.0.0.1:1/token", "http://desk/token", "https://desk:1/token", "https://desk:1/token#abc"} {
		if _, err := ParseShare(x); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("ParseShare(%q) = %v", x, err)
		}
	}
	c := open(t, "http://127.0.0.1:1/token")
	if _, err := c.Version(t.Context(), lab.Ref{Name: "deb"}); !errors.Is(err, lab.ErrUnreachable) || strings.Contains(err.Error(), "token") {
		t.Errorf("a share that is gone: %v", err)
	}
	for _, x := range []string{"", ":0", "127.0.0.1", "1.2.3.4:0", "127.0.0.1:x"} {
		if a, err := (&Share{}).Listen(x); !errors.Is(err, lab.ErrInvalid) {
			t.Errorf("Listen(%q) = %q, %v", x, a, err)
		}
	}
}
