package chunk

import (
	"errors"
	"slices"
	"testing"
)

func TestPackedManifest(t *testing.T) {
	sparse := Manifest{Size: 20 << 30, IDs: make([]ID, Count(20<<30))}
	for i := range 999 {
		sparse.IDs[i*7] = Sum(content(uint64(i), 99))
		sparse.IDs[i*7+1] = Free
	}
	for _, m := range []Manifest{{}, sparse, {Size: 5, IDs: []ID{Sum([]byte("hello"))}}} {
		b := m.Packed()
		for _, form := range [][]byte{b, m.Encode()} {
			if got, err := DecodePacked(form); err != nil || got.Size != m.Size || !slices.Equal(got.IDs, m.IDs) {
				t.Errorf("DecodePacked of %d bytes = %d bytes, %v", len(form), got.Size, err)
			}
		}
		if m.Size == sparse.Size && len(b) > len(m.Encode())/30 {
			t.Errorf("a sparse manifest of %d bytes packs to %d", len(m.Encode()), len(b))
		}
		for _, n := range []int{0, 1, len(packedMagic) - 1, len(packedMagic), len(b) / 2, len(b) - 1} {
			if _, err := DecodePacked(b[:n]); !errors.Is(err, ErrDamaged) {
				t.Errorf("cut to %d of %d bytes: %v", n, len(b), err)
			}
		}
		if _, err := DecodePacked(append(slices.Clone(b), 0)); !errors.Is(err, ErrDamaged) {
			t.Errorf("a byte behind: %v", err)
		}
	}
}

func FuzzDecodePacked(f *testing.F) {
	f.Add(Manifest{Size: 5, IDs: []ID{Sum([]byte("hello"))}}.Packed())
	f.Add([]byte(packedMagic + "\x28\xb5\x2f\xfd\xa0\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := DecodePacked(b); err != nil && !errors.Is(err, ErrDamaged) {
			t.Errorf("not marked as damaged: %v", err)
		}
	})
}
