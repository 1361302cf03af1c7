package store

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"

	"carte/lab/chunk"
)

// Stats says what an import did. Bytes are bytes, chunks are chunks of chunk.Size.
type Stats struct {
	Bytes     int64 // logical bytes read
	New       int64 // bytes that the packs grew by
	Chunks    int   // chunks read, zero ones included
	NewChunks int   // chunks stored
}

// Import reads r to its end and keeps it: chunks, then manifest. It hashes and compresses on all cores while it reads, with a fixed number of
// buffers. progress, if not nil, is told the bytes read so far, on the caller's goroutine, after each chunk.
//
// An error from r or the disk, or the end of ctx, leaves nothing. A Read that blocks is not interrupted by ctx: close r for that. Importing the same
// bytes again gives the same root and stores nothing.
func (c *Chunks) Import(ctx context.Context, r io.Reader, progress func(done int64)) (chunk.Manifest, Stats, error) {
	w, err := c.Writer()
	if err != nil {
		return chunk.Manifest{}, Stats{}, err
	}
	defer w.Abort()
	im := &importer{w: w, r: r, progress: progress}
	if err := im.Run(ctx); err != nil {
		return chunk.Manifest{}, Stats{}, fmt.Errorf("import at byte %d: %w", im.m.Size, err)
	}
	if _, err := w.CommitManifest(im.m); err != nil {
		return chunk.Manifest{}, Stats{}, fmt.Errorf("import: %w", err)
	}
	return im.m, im.stats, nil
}

// importer is one stream on its way into a pack.
type importer struct {
	w        *Writer
	r        io.Reader
	progress func(int64)

	mu    sync.Mutex
	m     chunk.Manifest // IDs are filled in by the workers, in whatever order they finish
	stats Stats
}

// piece is one chunk that was read. Its buffer is used again.
type piece struct {
	i   int
	buf []byte // chunk.Size of capacity
}

// Run reads on this goroutine and packs on as many as there are cores. They have ended when it returns.
func (im *importer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	workers := runtime.GOMAXPROCS(0)
	free, work := make(chan []byte, 2*workers), make(chan piece)
	for range cap(free) {
		free <- make([]byte, chunk.Size)
	}
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			packed := make([]byte, 0, chunk.MaxStored)
			for p := range work {
				var err error
				if packed, err = im.keep(p, packed); err != nil {
					cancel(err)
				}
				free <- p.buf[:chunk.Size]
			}
		})
	}
	err := im.read(ctx, free, work)
	close(work)
	all.Wait()
	if err == nil {
		err = context.Cause(ctx) // of a worker, or of the caller
	}
	return err
}

// read cuts the stream and hands out the pieces.
func (im *importer) read(ctx context.Context, free <-chan []byte, work chan<- piece) error {
	for i := 0; ; i++ {
		var buf []byte
		select {
		case buf = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(im.r, buf)
		last := err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !last {
			return err
		}
		if n > 0 {
			im.mu.Lock()
			im.m.IDs = append(im.m.IDs, chunk.ID{})
			im.m.Size += int64(n)
			im.stats.Chunks++
			im.stats.Bytes += int64(n)
			im.mu.Unlock()
			work <- piece{i: i, buf: buf[:n]}
			if im.progress != nil {
				im.progress(im.m.Size)
			}
		}
		if last {
			return nil
		}
	}
}

// keep hashes one piece and stores it if it is new.
func (im *importer) keep(p piece, packed []byte) ([]byte, error) {
	id := chunk.Sum(p.buf)
	if id.IsZero() {
		return packed, nil // the manifest says so already
	}
	fresh := im.w.claim(id)
	if fresh {
		packed = chunk.Pack(packed, p.buf)
		if err := im.w.append(id, packed); err != nil {
			return packed, err
		}
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.m.IDs[p.i] = id
	if fresh {
		im.stats.NewChunks++
		im.stats.New += int64(len(packed) + chunk.FrameHeader)
	}
	return packed, nil
}
