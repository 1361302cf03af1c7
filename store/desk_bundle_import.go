package store

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"carte/lab"
	"carte/lab/chunk"
	"carte/lab/text"
)

// The most that members of a bundle may have, in bytes, and the most versions.
const (
	maxBundleText     = 8 << 20
	maxBundleVersions = 64
)

// ImportStack reads a bundle to its end: its chunks first, then, in one step, the kinds that it brings, its versions under their numbers and the stack, with
// the names that as says. Whatever goes wrong before leaves nothing that anybody can see. What is in this lab already is not stored again.
//
// lab.ErrRefused: a kind of that name has other clauses here, or, with the clause "versioned", a version of that name and number is here and has other bytes.
// lab.ErrBusy: another stack has the name. lab.ErrInvalid: it is no bundle that this carte reads, or has not what as names. lab.ErrDamaged: it was changed or
// cut off, and where.
func (d *Desk) ImportStack(ctx context.Context, r io.Reader, as lab.TakeAs, progress func(done int64)) (lab.Taken, error) {
	if progress == nil {
		progress = func(int64) {}
	}
	if err := d.freshKinds(ctx); err != nil {
		return lab.Taken{}, fmt.Errorf("import a stack: nothing was added: %w", full(err))
	}
	u := &unbundle{d: d, ctx: ctx, as: as, progress: progress, manifests: map[chunk.ID]chunk.Manifest{}, of: map[chunk.ID]int{}, sums: map[string]string{}}
	u.from = io.TeeReader(bufio.NewReaderSize(r, 256<<10), &u.done)
	taken, err := u.Take()
	if err != nil {
		if errors.Is(err, context.Canceled) {
			err = context.Canceled
		}
		return lab.Taken{}, fmt.Errorf("import a stack: nothing was added: %w", full(err))
	}
	return taken, nil
}

// unbundle is one bundle that is being read.
type unbundle struct {
	d         *Desk
	ctx       context.Context
	from      io.Reader
	done      odometer
	progress  func(done int64)
	head      bundleHead
	as        lab.TakeAs
	renamed   []lab.Renamed
	kinds     []lab.Kind // under the names that they have here, as versions and stack are
	versions  []lab.AddVersion
	stack     lab.Stack
	manifests map[chunk.ID]chunk.Manifest
	of        map[chunk.ID]int // chunks that are still to come: the version that lists it first
	w         *Writer
	sums      map[string]string // of the texts, by name
	ended     bool
}

// Take reads the bundle and takes it in.
func (u *unbundle) Take() (lab.Taken, error) {
	defer func() {
		if u.w != nil {
			u.w.Abort()
		}
	}()
	in := tar.NewReader(u.from)
	for i := 0; ; i++ {
		if err := u.ctx.Err(); err != nil {
			return lab.Taken{}, err
		}
		at := u.done
		h, err := in.Next()
		switch {
		case err == io.EOF && u.ended:
			return u.take()
		case err == io.EOF && i > 0:
			return lab.Taken{}, fmt.Errorf("the bundle is cut off at byte %d: %w", u.done, lab.ErrDamaged)
		case i == 0 && (err != nil || h.Name != bundleHeadAs):
			if u.ctx.Err() != nil {
				return lab.Taken{}, u.ctx.Err()
			}
			return lab.Taken{}, fmt.Errorf("this is no bundle; carte stack export NAME --as bundle makes one: %w", lab.ErrInvalid)
		case err != nil:
			return lab.Taken{}, u.place(fmt.Sprintf("at byte %d", at), err)
		}
		if err := u.member(h, in); err != nil {
			return lab.Taken{}, u.place(fmt.Sprintf("%s, before byte %d", lab.Clean(h.Name), u.done), err)
		}
	}
}

// place says where an error is, and that it is damage where the bytes are to blame.
func (u *unbundle) place(where string, err error) error {
	switch {
	case u.ctx.Err() != nil:
		return u.ctx.Err()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s: the bundle is cut off: %w", where, lab.ErrDamaged)
	case errors.Is(err, lab.ErrRefused) || errors.Is(err, lab.ErrBusy): // by this lab, wherever it is said
		return err
	case errors.Is(err, tar.ErrHeader):
		return fmt.Errorf("%s: %w: %w", where, err, lab.ErrDamaged)
	}
	return fmt.Errorf("%s: %w", where, err)
}

// member takes one member in.
func (u *unbundle) member(h *tar.Header, r io.Reader) error {
	folder, name, _ := strings.Cut(h.Name, "/")
	switch {
	case u.ended:
		return fmt.Errorf("it comes behind the end: %w", lab.ErrDamaged)
	case h.Name == bundleHeadAs && u.head.Format == 0:
		return u.text(h, r, u.readHead)
	case h.Name == bundleStackAs && u.stack.Name == "":
		return u.text(h, r, u.readStack)
	case folder == "manifests" && u.w == nil && u.stack.Name != "":
		return u.manifest(name, h.Size, r)
	case folder == "chunks" && u.stack.Name != "":
		return u.chunks(r)
	case h.Name == bundleSumsAs:
		return u.text(h, r, u.readSums)
	}
	return fmt.Errorf("it does not belong here: %w", lab.ErrDamaged)
}

// text reads a member that is text.
func (u *unbundle) text(h *tar.Header, r io.Reader, take func([]byte) error) error {
	if h.Size > maxBundleText {
		return fmt.Errorf("it has %s, and %s are the most: %w", lab.Bytes(h.Size), lab.Bytes(maxBundleText), lab.ErrInvalid)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	u.sums[h.Name] = chunk.Sum(b).String()
	return take(b)
}

func (u *unbundle) readHead(b []byte) error {
	var format struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &format); err != nil {
		return fmt.Errorf("%v: %w", err, lab.ErrDamaged)
	}
	if format.Format != bundleFormat {
		return fmt.Errorf("the bundle has format %d, and this carte reads %d; a newer carte reads it: %w", format.Format, bundleFormat, lab.ErrInvalid)
	}
	if err := json.Unmarshal(b, &u.head); err != nil {
		return fmt.Errorf("%v: %w", err, lab.ErrDamaged)
	}
	if n := len(u.head.Cards); n == 0 || n > maxBundleVersions {
		return fmt.Errorf("it has %d versions, want 1 to %d: %w", n, maxBundleVersions, lab.ErrInvalid)
	}
	for _, c := range u.head.Cards {
		v := c.Version
		if c.Image.Name != v.Image {
			return fmt.Errorf("the card of %s is one of %s: %w", v.Ref(), c.Image.Name, lab.ErrDamaged)
		}
		v.Stored, v.Inside = 0, cleanInside(v.Inside)
		u.versions = append(u.versions, lab.AddVersion{Version: v, Kind: c.Image.Kind, Form: c.Image.Form, Dies: c.Image.Dies, Owner: c.Image.Owner})
	}
	return u.names()
}

// cleanInside makes what another lab says of an image fit for a screen.
func cleanInside(in lab.Inside) lab.Inside {
	in.Arch, in.Starts, in.Init = lab.Clean(in.Arch), lab.Clean(in.Starts), lab.Clean(in.Init)
	for _, all := range [][]string{in.Kernels, in.UUIDs} {
		for i := range all {
			all[i] = lab.Clean(all[i])
		}
	}
	for i, f := range in.Firmware {
		in.Firmware[i] = lab.Firmware(lab.Clean(string(f)))
	}
	return in
}

func (u *unbundle) readStack(b []byte) (err error) {
	if u.stack, err = text.ParseStack(b); err != nil {
		return err
	}
	u.stack = lab.TakeStack{Stack: u.stack}.Under(u.renamed).Stack
	return u.d.Lab.Check(lab.TakeStack{Versions: u.versions, Kinds: u.kinds, Stack: u.stack})
}

func (u *unbundle) readSums(b []byte) error {
	for line := range strings.Lines(string(b)) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if u.sums[name] != sum {
			return fmt.Errorf("%s does not hash to what it says: %w", lab.Clean(name), lab.ErrDamaged)
		}
		delete(u.sums, name)
	}
	delete(u.sums, bundleSumsAs)
	if len(u.sums) > 0 || len(u.of) > 0 {
		return fmt.Errorf("%d chunks did not come, and %d texts have no sum: %w", len(u.of), len(u.sums), lab.ErrDamaged)
	}
	u.ended = true
	return nil
}

// manifest reads what a version is made of.
func (u *unbundle) manifest(name string, size int64, r io.Reader) error {
	if size > lab.MaxManifestSent {
		return fmt.Errorf("it has %s, and %s are the most: %w", lab.Bytes(size), lab.Bytes(lab.MaxManifestSent), lab.ErrInvalid)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m, err := chunk.DecodePacked(b)
	if err != nil {
		return err
	}
	root := m.Root()
	which := -1
	for i, v := range u.versions {
		if v.Root == root && v.Bytes == m.Size {
			which = i
		}
	}
	if root.String() != name || which < 0 {
		return fmt.Errorf("its content hashes to %v, which is no version of the bundle: %w", root, lab.ErrDamaged)
	}
	u.manifests[root] = m
	for _, id := range m.IDs {
		if _, listed := u.of[id]; !listed && !id.Implied() {
			u.of[id] = which
		}
	}
	return nil
}

// chunks reads frames. Each is hashed before it counts.
func (u *unbundle) chunks(r io.Reader) (err error) {
	if u.w == nil {
		for _, v := range u.versions {
			if _, ok := u.manifests[v.Root]; !ok {
				return fmt.Errorf("the manifest of %s did not come: %w", v.Ref(), lab.ErrDamaged)
			}
		}
		if u.w, err = u.d.State.Chunks.Writer(); err != nil {
			return err
		}
	}
	buf := make([]byte, 0, chunk.MaxStored)
	for {
		if err := u.ctx.Err(); err != nil {
			return err
		}
		id, stored, err := chunk.ReadFrame(r, buf)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		which, wanted := u.of[id]
		if !wanted {
			return fmt.Errorf("chunk %v belongs to none of its versions: %w", id, lab.ErrDamaged)
		}
		fresh, err := u.w.Put(id, stored)
		if err != nil {
			return err
		}
		if fresh {
			u.versions[which].Stored += int64(len(stored) + chunk.FrameHeader)
		}
		delete(u.of, id)
		u.progress(int64(u.done))
	}
}
