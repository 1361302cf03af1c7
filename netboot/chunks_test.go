package netboot

import (
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// packed is a ChunkSource that reads from a file, as a pack is read.
type packed struct {
	f   *os.File
	at  map[chunk.ID]int64
	len int
}

func newPacked(t testing.TB, n, size int) (*packed, []chunk.ID) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "pack"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	p := &packed{f: f, at: map[chunk.ID]int64{}, len: size}
	noise := rand.NewChaCha8([32]byte{1})
	raw := make([]byte, size-1)
	var ids []chunk.ID
	for i := range n {
		noise.Read(raw)
		id, b := chunk.Sum(raw), chunk.Pack(nil, raw)
		if len(b) != size {
			t.Fatalf("a stored form of %d bytes", len(b))
		}
		p.at[id] = int64(i * size)
		ids = append(ids, id)
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	return p, ids
}

func (p *packed) Manifest(chunk.ID) (chunk.Manifest, error) { return chunk.Manifest{}, lab.ErrNotFound }

func (p *packed) Stored(id chunk.ID) ([]byte, error) { return p.StoredTo(id, nil) }

func (p *packed) StoredTo(id chunk.ID, dst []byte) ([]byte, error) {
	at, ok := p.at[id]
	if !ok {
		return nil, lab.ErrNotFound
	}
	if cap(dst) < p.len {
		dst = make([]byte, p.len)
	}
	_, err := p.f.ReadAt(dst[:p.len], at)
	return dst[:p.len], err
}

// nowhere is a client that takes everything at once.
type nowhere struct{ head http.Header }

func (n nowhere) Header() http.Header         { return n.head }
func (n nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (n nowhere) WriteHeader(int)             {}

func TestHotChunks(t *testing.T) {
	const size = 200_000
	source, ids := newPacked(t, 2*hotBytes/size, size)
	h := newHot(source)
	buf := make([]byte, chunk.MaxStored)
	ask := func(id chunk.ID) []byte {
		t.Helper()
		b, err := h.stored(id, buf)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := chunk.UnpackAny(nil, b, id); err != nil {
			t.Error(err)
		}
		return b
	}
	for _, id := range ids {
		ask(id)
	}
	if h.bytes != 0 {
		t.Errorf("one machine that reads all has %d bytes kept", h.bytes)
	}
	for range 3 {
		for _, id := range ids {
			ask(id)
			if h.bytes > hotBytes {
				t.Fatalf("%d bytes are kept, %d is the most", h.bytes, hotBytes)
			}
		}
	}
	if h.bytes < hotBytes-size || h.kept.Len() != h.bytes/size {
		t.Errorf("%d chunks, %d bytes kept", h.kept.Len(), h.bytes)
	}
	last := ids[len(ids)-1]
	if a, b := ask(last), ask(last); &a[0] != &b[0] || &a[0] == &buf[0] {
		t.Error("a hot chunk was read again")
	}
	bad := chunk.Sum([]byte("another"))
	source.at[bad] = 0
	for range 3 {
		if _, err := h.stored(bad, buf); err != nil {
			t.Fatal(err)
		}
	}
	if h.kept.Contains(bad) {
		t.Error("a damaged chunk is kept")
	}
}

// BenchmarkServeChunks is what a chunk costs the server besides TLS: one machine that reads an image once, and fifty that read it together.
func BenchmarkServeChunks(b *testing.B) {
	const size, batch = 100 << 10, 64
	source, ids := newPacked(b, 8*batch, size)
	run := func(name string, machines int) {
		b.Run(name, func(b *testing.B) {
			s := &Server{cfg: Config{Chunks: source}, hot: newHot(source)}
			b.SetBytes(size)
			b.ReportAllocs()
			for n := 0; n < b.N; {
				for part := 0; part < len(ids) && n < b.N; part += batch {
					for range machines {
						if err := s.sendChunks(nowhere{http.Header{}}, ids[part:part+batch]); err != nil {
							b.Fatal(err)
						}
						n += batch
					}
				}
			}
		})
	}
	run("one", 1)
	run("fifty", 50)
}
