package store

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"

	"carte/lab/chunk"
	"carte/lab/layout"
)

// Stats says what an import did. Bytes are bytes, chunks are chunks of chunk.Size.
type Stats struct {
	Bytes     int64 // logical bytes read
	New       int64 // bytes that the packs grew by
	Chunks    int   // chunks read, zero ones included
	NewChunks int   // chunks stored
	Mended    int   // of these: chunks that were damaged, or lost
}

// Input is what an import reads: one stream of bytes, or Size bytes that can be read at any place.
type Input struct {
	Stream io.Reader
	At     io.ReaderAt // used instead of Stream if it is not nil
	Size   int64       // of At

	Whole    bool             // free space is kept as well
	Progress func(done int64) // nil, or told the bytes read so far, on the caller's goroutine, after each chunk
}

// Import reads r to its end and keeps all of it; see Keep.
func (c *Chunks) Import(ctx context.Context, r io.Reader, progress func(done int64)) (chunk.Manifest, Stats, error) {
	m, _, stats, err := c.Keep(ctx, Input{Stream: r, Whole: true, Progress: progress})
	return m, stats, err
}

// Keep reads an image to its end and keeps it: chunks, then manifest. It hashes and compresses on all cores while it reads, with a fixed number of
// buffers. Unless the input is to be kept whole, what the file systems in it do not need is left out: a chunk of which nothing is needed is chunk.Free,
// and in the others it becomes zeros. Where that is known beforehand it is not even read. The same image gives the same root either way.
//
// An error of the input or the disk, or the end of ctx, leaves nothing. A Read that blocks is not interrupted by ctx: close the input for that.
// Importing the same bytes again gives the same root and stores nothing. The map is what was found in the image; its places are of the input.
func (c *Chunks) Keep(ctx context.Context, in Input) (chunk.Manifest, layout.Map, Stats, error) {
	w, err := c.Writer()
	if err != nil {
		return chunk.Manifest{}, layout.Map{}, Stats{}, err
	}
	defer w.Abort()
	im := &importer{w: w, in: in}
	found, err := im.keepAll(ctx)
	if err != nil {
		return chunk.Manifest{}, layout.Map{}, Stats{}, fmt.Errorf("import at byte %d: %w", im.m.Size, err)
	}
	if _, err := w.CommitManifest(im.m); err != nil {
		return chunk.Manifest{}, layout.Map{}, Stats{}, fmt.Errorf("import: %w", err)
	}
	if im.stats.Mended = w.mended; w.stored == 0 { // another import of the same was quicker
		im.stats.New, im.stats.NewChunks = 0, 0
	}
	return im.m, found, im.stats, nil
}

// keepAll does everything but making it visible.
func (im *importer) keepAll(ctx context.Context) (found layout.Map, err error) {
	if im.in.At == nil {
		if err := im.Run(ctx); err != nil {
			return layout.Map{}, err
		}
		return im.trim(ctx)
	}
	if found, err = layout.Read(ctx, im.in.At, im.in.Size); err != nil {
		return layout.Map{}, err
	}
	if !im.in.Whole {
		im.spare = &found
	}
	return found, im.Run(ctx)
}

// importer is one image on its way into a pack.
type importer struct {
	w     *Writer
	in    Input
	spare *layout.Map // what is left out; nil: nothing, or it is not known yet

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

// read cuts the input and hands out the pieces.
func (im *importer) read(ctx context.Context, free <-chan []byte, work chan<- piece) error {
	for i := 0; ; i++ {
		off := int64(i) * chunk.Size
		if n := im.spared(off); n > 0 && ctx.Err() == nil {
			im.count(n, chunk.Free)
			continue
		}
		var buf []byte
		select {
		case buf = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, last, err := im.next(buf, off)
		if err != nil {
			return err
		}
		if n > 0 {
			im.count(n, chunk.ID{})
			work <- piece{i: i, buf: buf[:n]}
		}
		if last {
			return nil
		}
	}
}

// spared is how many bytes the chunk at off has, if none of them is needed; else 0.
func (im *importer) spared(off int64) int {
	n := min(chunk.Size, im.in.Size-off)
	if im.spare == nil || n <= 0 || !im.spare.Cover(off, n) {
		return 0
	}
	return int(n)
}

// next reads the chunk at off into buf, as far as there is one, and says whether it is the last.
func (im *importer) next(buf []byte, off int64) (n int, last bool, err error) {
	if im.in.At == nil {
		n, err = io.ReadFull(im.in.Stream, buf)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return n, true, nil
		}
		return n, false, err
	}
	buf = buf[:min(int64(len(buf)), im.in.Size-off)]
	n, err = im.in.At.ReadAt(buf, off)
	if n == len(buf) {
		return n, off+int64(n) == im.in.Size, nil
	}
	return n, false, short(err)
}

// short is err, where fewer bytes came than there are.
func short(err error) error {
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// count notes the next chunk.
func (im *importer) count(n int, id chunk.ID) {
	im.mu.Lock()
	im.m.IDs = append(im.m.IDs, id)
	im.m.Size += int64(n)
	im.stats.Chunks++
	im.stats.Bytes += int64(n)
	im.mu.Unlock()
	if im.in.Progress != nil {
		im.in.Progress(im.m.Size)
	}
}

// keep hashes one piece and stores it if it is new.
func (im *importer) keep(p piece, packed []byte) ([]byte, error) {
	if im.spare != nil {
		im.spare.Blank(p.buf, int64(p.i)*chunk.Size)
	}
	return im.take(p.i, p.buf, packed)
}

// take is keep for what is needed of a piece.
func (im *importer) take(i int, b, packed []byte) ([]byte, error) {
	id := chunk.Sum(b)
	if id.IsZero() {
		return packed, nil // the manifest says so already
	}
	fresh := im.w.claim(id)
	if fresh {
		packed = chunk.Pack(packed, b)
		if err := im.w.append(id, packed); err != nil {
			return packed, err
		}
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.m.IDs[i] = id
	if fresh {
		im.stats.NewChunks++
		im.stats.New += int64(len(packed) + chunk.FrameHeader)
	}
	return packed, nil
}
