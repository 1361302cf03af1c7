package chunk

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// content returns n bytes that mix zeros, text that compresses and noise that does not, the same for the same seed.
func content(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for o := 0; o < n; {
		e := min(n, o+1+r.IntN(Size*2))
		switch r.IntN(3) {
		case 0:
			for i := o; i < e; i++ {
				b[i] = byte(r.Uint32())
			}
		case 1:
			for i := o; i < e; i++ {
				b[i] = "operating systems a la carte\n"[i%29]
			}
		}
		o = e
	}
	return b
}

var sizes = []int{0, 1, 15, 4095, 4096, 4097, Size - 1, Size, Size + 1, 3 * Size, 3*Size + 17}

func TestScanSplitsAndKeepsOrder(t *testing.T) {
	for _, n := range sizes {
		want := content(uint64(n), n)
		var got []byte
		m, err := Scan(t.Context(), iotest.HalfReader(bytes.NewReader(want)), func(i int, b []byte) error {
			if i != len(got)/Size {
				t.Errorf("size %d: chunk %d at byte %d", n, i, len(got))
			}
			got = append(got, b...)
			return nil
		})
		if err != nil || !bytes.Equal(got, want) || m.Size != int64(n) || len(m.IDs) != Count(int64(n)) {
			t.Fatalf("Scan of %d bytes = %d bytes in %d chunks, %v", n, m.Size, len(m.IDs), err)
		}
		var sum, full int64
		for i, id := range m.IDs {
			b := want[i*Size : i*Size+m.Len(i)]
			if id != Sum(b) || id.IsZero() != (len(bytes.Trim(b, "\x00")) == 0) {
				t.Errorf("size %d: chunk %d has id %v", n, i, id)
			}
			sum += int64(m.Len(i))
			if !id.IsZero() {
				full += int64(m.Len(i))
			}
		}
		if sum != m.Size || full != m.Content() {
			t.Errorf("size %d: lengths add up to %d, content %d, want %d", n, sum, m.Content(), full)
		}
	}
}

func TestScanEndsWithTheError(t *testing.T) {
	b := content(1, 3*Size)
	broken := errors.New("cable pulled")
	if m, err := Scan(t.Context(), io.MultiReader(bytes.NewReader(b[:Size+5]), iotest.ErrReader(broken)), nil); !errors.Is(err, broken) || m.IDs != nil {
		t.Errorf("broken reader: %v, %v", m.Size, err)
	} else if !strings.Contains(err.Error(), "262149") {
		t.Errorf("error does not name the place: %v", err)
	}
	if _, err := Scan(t.Context(), bytes.NewReader(b), func(i int, _ []byte) error { return broken }); err != broken {
		t.Errorf("error of each: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := Scan(ctx, bytes.NewReader(b), func(i int, _ []byte) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled scan: %v", err)
	}
}

func TestIsZero(t *testing.T) {
	for _, n := range sizes {
		b := make([]byte, n)
		if !IsZero(b) || !Sum(b).IsZero() {
			t.Errorf("%d zeros are not zero", n)
		}
		for _, i := range []int{0, n / 2, n - 1} {
			if n > 0 {
				b[i] = 1
				if IsZero(b) || Sum(b).IsZero() {
					t.Errorf("%d bytes with a one at %d are zero", n, i)
				}
				b[i] = 0
			}
		}
	}
}

func TestIDText(t *testing.T) {
	id := Sum([]byte("x"))
	got, err := ParseID(id.String())
	if err != nil || got != id {
		t.Errorf("ParseID(%v) = %v, %v", id, got, err)
	}
	for _, s := range []string{"", "abc", strings.Repeat("g", 64), id.String() + "0", strings.Repeat("/", 64)} {
		if got, err := ParseID(s); err == nil || !got.IsZero() {
			t.Errorf("ParseID(%q) = %v, %v", s, got, err)
		}
	}
}

func TestManifestRoundTrip(t *testing.T) {
	roots := map[ID]int{}
	for _, n := range sizes {
		m, _ := Scan(t.Context(), bytes.NewReader(content(9, n)), nil)
		b := m.Encode()
		got, err := Decode(b)
		if err != nil || got.Size != m.Size || !slices.Equal(got.IDs, m.IDs) || got.Root() != m.Root() {
			t.Fatalf("Decode(Encode(%d bytes)) = %d bytes, %v", n, got.Size, err)
		}
		if m.Root().IsZero() {
			t.Errorf("root of %d bytes is zero", n)
		}
		if o, ok := roots[m.Root()]; ok {
			t.Errorf("sizes %d and %d have the same root", o, n)
		}
		roots[m.Root()] = n
		for i := range b { // every truncation, and every header byte
			if _, err := Decode(b[:i]); !errors.Is(err, ErrDamaged) {
				t.Fatalf("manifest cut to %d of %d bytes: %v", i, len(b), err)
			}
		}
		if _, err := Decode(append(slices.Clone(b), 0)); !errors.Is(err, ErrDamaged) {
			t.Errorf("trailing byte: %v", err)
		}
	}
}

func TestManifestHugeSizeAllocatesNothing(t *testing.T) {
	b := Manifest{}.Encode()
	for i := len(magic) + 4; i < headerSize; i++ {
		b[i] = 0x7f
	}
	if n := testing.AllocsPerRun(10, func() { Decode(b) }); n > 10 {
		t.Errorf("%v allocations", n)
	}
	if _, err := Decode(b); !errors.Is(err, ErrDamaged) {
		t.Errorf("huge size: %v", err)
	}
}

func TestDiff(t *testing.T) {
	a := content(3, 4*Size+100)
	b := slices.Clone(a)
	b[Size+5]++
	b = append(b, make([]byte, Size)...) // longer by zeros: chunk 4 is longer, 5 is new
	ma, _ := Scan(t.Context(), bytes.NewReader(a), nil)
	mb, _ := Scan(t.Context(), bytes.NewReader(b), nil)
	if d := Diff(ma, mb); !slices.Equal(d, []int{1, 4, 5}) {
		t.Errorf("Diff = %v", d)
	}
	if d := Diff(mb, mb); d != nil {
		t.Errorf("Diff with itself = %v", d)
	}
	if d := Diff(Manifest{}, ma); len(d) != 5 {
		t.Errorf("Diff from nothing = %v", d)
	}
	za, zb := Manifest{Size: 10, IDs: make([]ID, 1)}, Manifest{Size: 20, IDs: make([]ID, 1)}
	if d := Diff(za, zb); !slices.Equal(d, []int{0}) {
		t.Errorf("zeros that grew: %v", d)
	}
}

func FuzzDecode(f *testing.F) {
	m, _ := Scan(f.Context(), bytes.NewReader(content(2, 2*Size+3)), nil)
	f.Add(m.Encode())
	f.Add(Manifest{}.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("not marked as damaged: %v", err)
			}
			return
		}
		if !bytes.Equal(m.Encode(), b) {
			t.Errorf("%x decodes but is not canonical", b)
		}
	})
}

func BenchmarkSum(b *testing.B) {
	buf := content(5, Size)
	rand.NewChaCha8([32]byte{}).Read(buf)
	b.SetBytes(Size)
	for b.Loop() {
		Sum(buf)
	}
}

func BenchmarkSumZero(b *testing.B) {
	buf := make([]byte, Size)
	b.SetBytes(Size)
	for b.Loop() {
		Sum(buf)
	}
}

func TestFree(t *testing.T) {
	m := Manifest{Size: 2*Size + 5, IDs: []ID{Sum([]byte("x")), Free, {}}}
	if n := m.Content(); n != Size {
		t.Errorf("content %d bytes, want one chunk", n)
	}
	got, err := Decode(m.Encode())
	if err != nil || got.IDs[1] != Free {
		t.Errorf("decoded %v, %v", got, err)
	}
	if _, err := UnpackAny(nil, []byte{0, 1}, Free); !errors.Is(err, ErrDamaged) {
		t.Errorf("something was unpacked as free: %v", err)
	}
	if d := Diff(Manifest{}, m); len(d) != 2 {
		t.Errorf("to be written: %v; what is free is not", d)
	}
}
