package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// broken is a shelf that hands over so many chunks, and then that error.
type broken struct {
	*shelf
	after int64
	err   error
}

func (b *broken) Chunks(ctx context.Context, ids []chunk.ID, each func(chunk.ID, []byte) error) (int, error) {
	if b.served.Load() >= b.after {
		return 0, b.err
	}
	return b.shelf.Chunks(ctx, ids, each)
}

// An error says what to do that helps.
func TestFlashSaysWhatHelps(t *testing.T) {
	for name, tt := range map[string]struct {
		err   error
		after int64
		says  string
		never string
	}{
		"share gone":         {lab.ErrUnreachable, 20, "when the image can be had again", "same command"},
		"share gone at once": {lab.ErrUnreachable, 0, "was not changed", "same command"},
		"damaged":            {lab.ErrDamaged, 20, "mend the image first: carte fsck", "goes on from there"},
		"damaged at once":    {lab.ErrDamaged, 0, "was not changed; mend the image first: carte fsck", "same command"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf()
			v := s.add(t, 1, noise(1, 200*c))
			path := filepath.Join(t.TempDir(), "disk")
			_, err := Flash(t.Context(), &broken{s, tt.after, tt.err}, lab.Flash{Version: v, To: path}, Audience{})
			if !errors.Is(err, tt.err) || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), tt.never) {
				t.Errorf("error %v, want %q", err, tt.says)
			}
			if _, e := os.Stat(path); (e == nil) != (tt.after > 0) {
				t.Errorf("the file is there: %v", e == nil)
			}
		})
	}
}

// Where the kernel grows no file system for this process, that is all that is missing.
func TestFlashGrowsTheTableAtLeast(t *testing.T) {
	loops(t, "mke2fs")
	s := newShelf()
	v := s.add(t, 1, ext4Image(t, 32*mib))
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 64*mib); err != nil {
		t.Fatal(err)
	}
	_, err := Flash(t.Context(), s, lab.Flash{Version: v, To: path, Grow: true}, Audience{})
	if err != nil && (!strings.Contains(err.Error(), "holds im@1, all of it, and partition 1 has grown") || !strings.Contains(err.Error(), "resize2fs")) {
		t.Errorf("error %v", err)
	}
}

// The choice follows the prediction, and says what was found.
func TestJudge(t *testing.T) {
	const n = 1000 * c
	m := chunk.Manifest{Size: n, IDs: make([]chunk.ID, 1000)}
	for name, tt := range map[string]struct {
		b    probe
		want lab.Strategy
		why  string
	}{
		"blank device":        {probe{unknown: n, used: n, looked: 32 * c, void: 32 * c, read: 1e8, lay: 1e9}, lab.Full, "all that was sampled is blank; "},
		"blank, reads fast":   {probe{unknown: n, used: n, looked: 32 * c, void: 32 * c, read: 1e9, lay: 1e7}, lab.Differential, "blank, and full would not gain enough; "},
		"hardly begun":        {probe{unknown: n, used: n, looked: 32 * c, equal: c, void: 31 * c, read: 1e8, lay: 1e9}, lab.Full, "3 % of what was sampled is there already; "},
		"mostly there":        {probe{unknown: n, used: n, looked: 32 * c, equal: 31 * c, read: 1e8, lay: 1e8}, lab.Differential, "97 % of what was sampled"},
		"small":               {probe{unknown: 40 * c, used: 40 * c, looked: 32 * c, read: 1e8}, lab.Full, "too little to measure writing"},
		"read because it has": {probe{unknown: n, used: n, looked: n, all: true, read: 1e8, lay: 1e9}, lab.Differential, "0 % of it is there already; "},
		"all there, it seems": {probe{unknown: n, used: n, looked: 32 * c, equal: 32 * c, read: 1e8}, lab.Differential, "100 % of what was sampled is there already; reads 100 MB/s, nothing to lay was found in a sample of 8.4 MB; the rest, 254 MB, is not known yet"},
		"all there":           {probe{unknown: n, used: n, looked: n, equal: n, all: true, read: 1e8}, lab.Differential, "nothing to lay was found"},
	} {
		b := tt.b
		b.flash, b.p = &flash{counts: &counts{}}, &part{Manifest: m}
		got := b.judge(lab.Auto)
		if got.Strategy != tt.want || !strings.Contains(got.Why, tt.why) || got.Strategy == lab.Full && got.Full > got.Differential {
			t.Errorf("%s: %+v, want %s: %q", name, got, tt.want, tt.why)
		}
	}
}
