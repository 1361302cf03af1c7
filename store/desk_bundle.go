package store

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/text"
)

// A bundle is a stack with all that it runs, as one tar archive, for a lab that cannot reach this one:
//
//	bundle.json     a bundleHead: the format, a card for each version, and the kinds of this lab's own that they have
//	stack.toml      the stack as people write it, each layer pinned to the version that the plan has
//	manifests/ROOT  what each version is made of, as the store keeps it
//	chunks/NUMBER   frames of chunks in their stored form, each chunk once
//	sums            BLAKE3-256 and name of bundle.json and stack.toml; what has no sums was cut off
//
// Members come in this order. Everything is checked by its hash: manifests and chunks by their names, the two texts by sums.
const (
	bundleFormat  = 1
	bundleHeadAs  = "bundle.json"
	bundleStackAs = "stack.toml"
	bundleSumsAs  = "sums"
	bundlePart    = 64 << 20 // bytes of frames in one member, or a little more
	tarBlock      = 512
)

// bundleHead is the first member.
type bundleHead struct {
	Format      int    `json:"format"`
	Stack       string `json:"stack"`
	Fingerprint string `json:"fingerprint"`
	Chunks      int    `json:"chunks"`
	Bytes       int64  `json:"bytes"` // of all frames
	Cards       []card `json:"cards"` // a version each, the system first

	Kinds []lab.Kind `json:"kinds,omitempty"` // of the cards, that not every lab has
}

// ExportStack writes a stack as a bundle or as a disk.
func (d *Desk) ExportStack(ctx context.Context, name, as string, w io.Writer, progress func(done, of int64)) (notes []string, err error) {
	switch as {
	case "bundle":
		return nil, d.exportBundle(ctx, name, w, progress)
	case "disk":
		return d.exportDisk(ctx, name, w, progress)
	}
	return nil, fmt.Errorf("a stack is exported as bundle or as disk, not as %q: %w", as, lab.ErrInvalid)
}

// bundle is one that is being written.
type bundle struct {
	d         *Desk
	head      bundleHead
	stack     []byte
	manifests map[chunk.ID]chunk.Manifest
	parts     [][]chunk.ID
	sizes     []int64 // of parts, in bytes
	of        int64   // bytes of the bundle
	done      odometer
	progress  func(done, of int64)
}

// odometer counts the bytes that go by.
type odometer int64

func (t *odometer) Write(p []byte) (int, error) {
	*t += odometer(len(p))
	return len(p), nil
}

func (d *Desk) exportBundle(ctx context.Context, name string, w io.Writer, progress func(done, of int64)) error {
	b := &bundle{d: d, manifests: map[chunk.ID]chunk.Manifest{}, progress: progress}
	if b.progress == nil {
		b.progress = func(int64, int64) {}
	}
	s, err := d.Lab.Watch(ctx, 0)
	if err != nil {
		return err
	}
	if err := b.plan(s, name); err != nil {
		return fmt.Errorf("export %s: %w", name, err)
	}
	if err := b.write(ctx, w); err != nil {
		return fmt.Errorf("export %s: the bundle is not whole: %w", name, err)
	}
	return nil
}

// plan lists what belongs into the bundle.
func (b *bundle) plan(s lab.Snapshot, name string) error {
	p, err := s.Resolve(name)
	if err != nil {
		return err
	}
	st := s.Stacks[name]
	st.Layers = slices.Clone(st.Layers)
	b.head = bundleHead{Format: bundleFormat, Stack: name, Fingerprint: p.Fingerprint()}
	listed := map[chunk.ID]bool{}
	var part []chunk.ID
	size := int64(0)
	cut := func() {
		b.parts, b.sizes, b.head.Bytes = append(b.parts, part), append(b.sizes, size), b.head.Bytes+size
		part, size = nil, 0
	}
	for _, l := range p.Layers {
		for i := range st.Layers {
			if st.Layers[i].Name == l.Ref.Name {
				st.Layers[i] = l.Ref
			}
		}
		if i := slices.IndexFunc(s.OwnKinds, func(k lab.Kind) bool { return k.Name == l.Kind }); i >= 0 && !slices.Contains(b.head.Kinds, s.OwnKinds[i]) {
			b.head.Kinds = append(b.head.Kinds, s.OwnKinds[i])
		}
		b.head.Cards = append(b.head.Cards, card{s.Images[l.Ref.Name], s.Versions[l.Ref.String()]})
		m, err := b.d.State.Chunks.Manifest(l.Root)
		if err != nil {
			return fmt.Errorf("%s: %w", l.Ref, err)
		}
		b.manifests[l.Root] = m
		for _, id := range m.IDs {
			if id.Implied() || listed[id] {
				continue
			}
			n := b.d.State.Chunks.StoredBytes(id)
			if n == 0 {
				return fmt.Errorf("%s: chunk %v is not here; carte fsck says more: %w", l.Ref, id, lab.ErrDamaged)
			}
			listed[id] = true
			part, size = append(part, id), size+n+int64(chunk.FrameHeader)
			if size >= bundlePart {
				cut()
			}
		}
	}
	if len(part) > 0 {
		cut()
	}
	b.head.Chunks, b.stack = len(listed), text.Stack(st)
	return nil
}

// write writes the members.
func (b *bundle) write(ctx context.Context, w io.Writer) error {
	head, err := json.MarshalIndent(b.head, "", " ")
	if err != nil {
		return err
	}
	sums := fmt.Appendf(nil, "%s  %s\n%s  %s\n", chunk.Sum(head), bundleHeadAs, chunk.Sum(b.stack), bundleStackAs)
	packed := map[chunk.ID][]byte{}
	for root, m := range b.manifests {
		packed[root] = m.Packed()
	}
	b.of = 2 * tarBlock // the end of a tar
	for _, x := range slices.Concat([][]byte{head, b.stack, sums}, slices.Collect(maps.Values(packed))) {
		b.of += tarSize(int64(len(x)))
	}
	for _, n := range b.sizes {
		b.of += tarSize(n)
	}
	b.progress(0, b.of)
	out := tar.NewWriter(io.MultiWriter(w, &b.done))
	if err := cmp.Or(tarMember(out, bundleHeadAs, head), tarMember(out, bundleStackAs, b.stack)); err != nil {
		return err
	}
	for _, root := range slices.SortedFunc(maps.Keys(packed), func(x, y chunk.ID) int { return bytes.Compare(x[:], y[:]) }) {
		if err := tarMember(out, "manifests/"+root.String(), packed[root]); err != nil {
			return err
		}
	}
	for i := range b.parts {
		if err := b.chunks(ctx, out, i); err != nil {
			return err
		}
	}
	if err := cmp.Or(tarMember(out, bundleSumsAs, sums), out.Close()); err != nil {
		return err
	}
	b.progress(int64(b.done), b.of)
	return nil
}

// tarSize is how many bytes a member of n bytes takes in a tar, with its header.
func tarSize(n int64) int64 { return tarBlock + (n+tarBlock-1)/tarBlock*tarBlock }

// tarMember writes one small member. It has no time, so that the same stack gives the same bytes.
func tarMember(out *tar.Writer, name string, b []byte) error {
	if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(b)), Format: tar.FormatPAX}); err != nil {
		return err
	}
	_, err := out.Write(b)
	return err
}

// chunks writes one member of frames. Every chunk is hashed before it leaves.
func (b *bundle) chunks(ctx context.Context, out *tar.Writer, i int) error {
	if err := out.WriteHeader(&tar.Header{Name: fmt.Sprintf("chunks/%05d", i), Mode: 0o644, Size: b.sizes[i], Format: tar.FormatPAX}); err != nil {
		return err
	}
	stored, raw := make([]byte, 0, chunk.MaxStored), make([]byte, 0, chunk.Size)
	for _, id := range b.parts[i] {
		if err := ctx.Err(); err != nil {
			return err
		}
		s, err := b.d.State.Chunks.readStored(id, stored)
		if err != nil {
			return err
		}
		if _, err := chunk.UnpackAny(raw, s, id); err != nil {
			_, _ = b.d.State.Chunks.Get(id, raw) // notes the damage, so that an import mends it
			return fmt.Errorf("%w; carte fsck says which versions have it", err)
		}
		if err := chunk.WriteFrame(out, id, s); err != nil {
			return err
		}
		b.progress(int64(b.done), b.of)
	}
	return nil
}
