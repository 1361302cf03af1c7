package agent

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// benchImage is 256 MiB: a third noise, a third text that compresses, a third zeros.
func benchImage(b *testing.B) []byte {
	b.Helper()
	all := make([]byte, 0, 1024*c)
	for i := range uint64(340) {
		all = append(all, noise(i, c)...)
		text := noise(i+1000, c)
		for j := range text {
			text[j] = "abcdefgh"[text[j]%8]
		}
		all = append(append(all, text...), make([]byte, c)...)
	}
	return all
}

// BenchmarkFlash tells what a full flash and the same version again cost; the latter beside nothing but reading and
// hashing the same file on all cores (at most 1.3 times that is the aim).
func BenchmarkFlash(b *testing.B) {
	image := benchImage(b)
	s := newShelf()
	v := s.add(b, 1, image)
	path := filepath.Join(b.TempDir(), "disk")
	var full, again, plain time.Duration
	for b.Loop() {
		if err := os.RemoveAll(path); err != nil {
			b.Fatal(err)
		}
		full += timed(b, func() error {
			_, err := Flash(b.Context(), s, lab.Flash{Version: v, To: path, Check: lab.CheckNever}, Audience{})
			return err
		})
		plain += timed(b, func() error { return readAndHash(b.Context(), path) }) / 2
		again += timed(b, func() error {
			_, err := Flash(b.Context(), s, lab.Flash{Version: v, To: path}, Audience{})
			return err
		})
		plain += timed(b, func() error { return readAndHash(b.Context(), path) }) / 2
	}
	b.SetBytes(int64(len(image)))
	b.ReportMetric(full.Seconds()/float64(b.N), "full-s")
	b.ReportMetric(again.Seconds()/float64(b.N), "again-s")
	b.ReportMetric(again.Seconds()/plain.Seconds(), "again/read+hash")
}

func timed(b *testing.B, do func() error) time.Duration {
	b.Helper()
	began := time.Now()
	if err := do(); err != nil {
		b.Fatal(err)
	}
	return time.Since(began)
}

// readAndHash is what cannot be avoided: what a file holds is read and hashed, its holes are not.
func readAndHash(ctx context.Context, path string) error {
	t, err := openTarget(path)
	if err != nil {
		return err
	}
	defer t.Close()
	var next atomic.Int64
	return together(workers(), func(context.Context) error {
		buf := aligned(reading)
		for off := next.Add(reading) - reading; off < t.Size(); off = next.Add(reading) - reading {
			n := min(reading, t.Size()-off)
			if start, _ := t.Data(off); start >= off+n {
				continue
			}
			if _, err := t.ReadAt(buf[:n], off); err != nil {
				return err
			}
			for b := buf[:n]; len(b) > 0; b = b[min(len(b), chunk.Size):] {
				chunk.Sum(b[:min(len(b), chunk.Size)])
			}
		}
		return nil
	}).Run(ctx)
}
