package chunk

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// samples are chunks of every sort: text, noise, mixed, tiny, odd.
func samples() [][]byte {
	noise := make([]byte, Size)
	rand.NewChaCha8([32]byte{7}).Read(noise)
	mixed := bytes.Clone(noise)
	clear(mixed[Size/4:])
	text := bytes.Repeat([]byte("the quick brown fox "), Size/20+1)[:Size]
	return [][]byte{noise, mixed, text, text[:Size-1], text[:100], noise[:100], {1}, noise[:4097]}
}

func TestPackUnpack(t *testing.T) {
	var packed, out []byte
	for i, raw := range samples() {
		packed = Pack(packed, raw)
		if len(packed) > len(raw)+1 || len(packed) > MaxStored {
			t.Errorf("sample %d: %d bytes pack to %d", i, len(raw), len(packed))
		}
		if packed[0] == codecZstd && len(packed) > len(raw)-len(raw)/16+1 {
			t.Errorf("sample %d: compressed from %d to %d for nothing", i, len(raw), len(packed))
		}
		got, err := Unpack(out, packed, Sum(raw), len(raw))
		if err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("sample %d: %v", i, err)
		}
		out = got
		if got, err := UnpackAny(nil, packed, Sum(raw)); err != nil || !bytes.Equal(got, raw) {
			t.Errorf("sample %d without its length: %v", i, err)
		}
		for _, n := range []int{-1, 0, len(raw) - 1, len(raw) + 1, Size + 1} {
			if _, err := Unpack(nil, packed, Sum(raw), n); !errors.Is(err, ErrDamaged) {
				t.Errorf("sample %d unpacked as %d bytes: %v", i, n, err)
			}
		}
	}
	if _, err := Unpack(nil, Pack(nil, make([]byte, 100)), ID{}, 101); !errors.Is(err, ErrDamaged) {
		t.Errorf("zero chunk of another length: %v", err)
	}
}

// Ten thousand damaged chunks: flipped bits, cuts, bytes added, bytes swapped. None may pass, but for damage that does not change the content.
func TestUnpackAcceptsNoDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var all [][]byte
	for _, raw := range samples() {
		all = append(all, raw[:min(len(raw), 16<<10)]) // short ones keep the test quick
	}
	for i := range 10_000 {
		raw := all[r.IntN(len(all))]
		p := Pack(nil, raw)
		switch r.IntN(4) {
		case 0:
			p[r.IntN(len(p))] ^= 1 << r.IntN(8)
		case 1:
			p = p[:r.IntN(len(p))]
		case 2:
			p = append(p, byte(r.Uint32()))
		case 3:
			p[r.IntN(len(p))] += byte(1 + r.IntN(255))
		}
		got, err := Unpack(nil, p, Sum(raw), len(raw))
		if err == nil && !bytes.Equal(got, raw) {
			t.Fatalf("damage %d: wrong content accepted", i)
		}
		if got, err := UnpackAny(got, p, Sum(raw)); err == nil && !bytes.Equal(got, raw) {
			t.Fatalf("damage %d: wrong content of unknown length accepted", i)
		}
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatalf("damage %d: not marked as damaged: %v", i, err)
		}
	}
}

func TestUnpackBombStaysSmall(t *testing.T) {
	e, _ := zstd.NewWriter(nil)
	bomb := append([]byte{codecZstd}, e.EncodeAll(make([]byte, 512<<20), nil)...)
	if len(bomb) > MaxStored {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	Unpack(nil, bomb, ID{1}, Size) // make the decoder
	var a, b runtime.MemStats
	runtime.ReadMemStats(&a)
	_, err := Unpack(nil, bomb, ID{1}, Size)
	runtime.ReadMemStats(&b)
	if !errors.Is(err, ErrDamaged) {
		t.Errorf("bomb: %v", err)
	}
	if n := b.TotalAlloc - a.TotalAlloc; n > 4*Size {
		t.Errorf("bomb allocated %d bytes", n)
	}
}

func TestFrames(t *testing.T) {
	var body bytes.Buffer
	for _, raw := range samples() {
		if err := WriteFrame(&body, Sum(raw), Pack(nil, raw)); err != nil {
			t.Fatal(err)
		}
	}
	whole := bytes.Clone(body.Bytes())
	var buf, out []byte
	for i, raw := range samples() {
		id, stored, err := ReadFrame(&body, buf)
		if err != nil || id != Sum(raw) {
			t.Fatalf("frame %d: %v", i, err)
		}
		buf = stored
		if out, err = Unpack(out, stored, id, len(raw)); err != nil || !bytes.Equal(out, raw) {
			t.Fatalf("frame %d: %v", i, err)
		}
	}
	if _, _, err := ReadFrame(&body, buf); err != io.EOF {
		t.Errorf("after the last frame: %v", err)
	}
	first := FrameHeader + len(Pack(nil, samples()[0]))
	for _, cut := range []int{1, 31, 35, 36, 37, first - 1} {
		if _, _, err := ReadFrame(bytes.NewReader(whole[:cut]), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", cut, err)
		}
	}
	if err := WriteFrame(io.Discard, ID{}, nil); err == nil {
		t.Error("empty frame written")
	}
	if err := WriteFrame(io.Discard, ID{}, make([]byte, MaxStored+1)); err == nil {
		t.Error("oversized frame written")
	}
}

func FuzzUnpack(f *testing.F) {
	text := bytes.Repeat([]byte("carte "), 500)
	f.Add(Pack(nil, text), len(text))
	f.Add([]byte{codecRaw, 1, 2, 3}, 3)
	f.Fuzz(func(t *testing.T, stored []byte, n int) {
		// The hash that this content would need: whatever unpacks must be it, whatever the bytes were.
		got, err := Unpack(nil, stored, Sum(text), n)
		if err == nil && !bytes.Equal(got, text) {
			t.Errorf("accepted %d wrong bytes", len(got))
		}
		if cap(got) > Size {
			t.Errorf("result has room for %d bytes", cap(got))
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	var b bytes.Buffer
	WriteFrame(&b, ID{1}, []byte{0, 1, 2, 3})
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		id, stored, err := ReadFrame(bytes.NewReader(b), nil)
		if err != nil {
			return
		}
		var w bytes.Buffer
		if err := WriteFrame(&w, id, stored); err != nil || !bytes.HasPrefix(b, w.Bytes()) {
			t.Errorf("frame does not write as it was read: %v", err)
		}
	})
}

func BenchmarkPack(b *testing.B) {
	raw := content(4, Size)
	var dst []byte
	b.SetBytes(Size)
	for b.Loop() {
		dst = Pack(dst, raw)
	}
}

func BenchmarkUnpack(b *testing.B) {
	raw := content(4, Size)
	stored, id := Pack(nil, raw), Sum(raw)
	var dst []byte
	b.SetBytes(Size)
	for b.Loop() {
		dst, _ = Unpack(dst, stored, id, Size)
	}
}
