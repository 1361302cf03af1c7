package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/lab/initrd"
)

// Where a tree is put together. All lies in the initramfs, and out of reach once the user's system runs.
const (
	layersAt = "/carte/layers" // each layer's partition, by its number; never written
	oursAt   = "/carte/ours"   // what carte itself adds
	upperAt  = "/carte/upper"  // what the user's system changes
	rootAt   = initrd.NewRoot  // all, one over the other
)

// A composition is a tree that is put together, and not running yet.
//
//	layersAt/0             the base: read-only, its journal not replayed
//	layersAt/1 ...         kernel and files, the same way
//	oursAt                 memory; in it, for the root and each place of files:
//	oursAt/root/upper      what carte itself adds: texts, directories to mount at
//	upperAt                carte-scratch, made anew, or memory; in it, for the same:
//	upperAt/root/upper     what is changed while the system runs, and nothing else
//	rootAt                 the root: overlay of both, the files without a place, the last first, and the base
//	rootAt/lib/modules/*   of the kernel, bound to where the root has its /lib/modules
//	rootAt/PLACE           files with a place: an overlay of their own
type composition struct {
	init    string    // the program to start, as a path in the root
	backs   []backDir // what is written back; their Upper are paths below upperAt
	mounted []string  // in the order in which they were mounted
}

// compose puts the tree of o together from the partitions of its disk, which must be there. After an error nothing is left
// mounted.
func (h host) compose(ctx context.Context, o lab.Orders) (c *composition, err error) {
	c = &composition{}
	begun := c // which is nil in what is returned with an error
	defer func() {
		if err != nil {
			err = errors.Join(err, begun.undo())
		}
	}()
	d, nodes, err := h.settle(ctx, o)
	if err != nil {
		return nil, err
	}
	for i, w := range o.Writes {
		// noload: a journal that is replayed would write to what was just proven.
		if err := c.mount(nodes[i], layerAt(i), "ext4", unix.MS_RDONLY, "noload"); err != nil {
			return nil, fmt.Errorf("%s does not mount as ext4 (%w): %w", w.Ref, err, lab.ErrInvalid)
		}
	}
	if err := h.mountUpper(c, d, nodes[len(o.Writes):], o); err != nil {
		return nil, err
	}
	all := overlays(o)
	if err := c.mount("tmpfs", oursAt, "tmpfs", 0, "mode=0755"); err != nil {
		return nil, fmt.Errorf("memory for what carte adds: %w", err)
	}
	if err := addOurs(o, all); err != nil {
		return nil, err
	}
	for _, v := range all {
		if err := c.overlay(v, upperAt, append([]string{upperIn(oursAt, v.room)}, v.lower...)...); err != nil {
			return nil, err
		}
	}
	if err := c.bindModules(o); err != nil {
		return nil, err
	}
	if c.init, err = findInit(rootAt); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Writes[0].Ref, err)
	}
	c.backs = backDirs(o, all)
	return c, context.Cause(ctx)
}

// layerAt is where a layer is mounted.
func layerAt(i int) string { return fmt.Sprintf("%s/%d", layersAt, i) }

// mount makes the directory and mounts something there.
func (c *composition) mount(what, at, kind string, flags uintptr, data string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(what, at, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", what, at, err)
	}
	c.mounted = append(c.mounted, at)
	return nil
}

// undo unmounts all, the last first.
func (c *composition) undo() error {
	var all []error
	for _, at := range slices.Backward(c.mounted) {
		if err := unix.Unmount(at, 0); err != nil {
			all = append(all, fmt.Errorf("unmount %s: %w", at, err))
		}
	}
	c.mounted = nil
	return errors.Join(all...)
}

// An overlaid is a directory of the system that several layers make.
type overlaid struct {
	what  string   // for messages
	place string   // in the root; empty: the root itself
	room  string   // below oursAt and upperAt
	lower []string // the topmost first
}

// overlays lists them, the root first.
func overlays(o lab.Orders) (all []overlaid) {
	root := overlaid{what: "the root", room: "root"}
	for i, w := range o.Writes {
		switch {
		case i > 0 && w.Form == lab.FormKernel:
		case i > 0 && w.Place != "":
			all = append(all, overlaid{fmt.Sprintf("%s at %s", w.Ref, w.Place), w.Place, roomOf(w), []string{layerAt(i)}})
		default:
			root.lower = append(root.lower, layerAt(i))
		}
	}
	slices.Reverse(root.lower) // the kernel wants the topmost first; of layers the last wins
	return append([]overlaid{root}, all...)
}

// roomOf is where the changes of files with a place lie.
func roomOf(w lab.Write) string { return w.Ref.Name + ".layer" }

// upperIn is the upper layer of a room.
func upperIn(at, room string) string { return filepath.Join(at, room, "upper") }

// wholly: what is changed must be whole in its layer for whoever reads it later: no redirects, no files of which only the metadata is
// there.
const wholly = ",redirect_dir=off,metacopy=off"

// overlay mounts lower layers, the topmost first, with changes going to v's room in a file system.
func (c *composition) overlay(v overlaid, on string, lower ...string) error {
	upper, work := upperIn(on, v.room), filepath.Join(on, v.room, "work")
	at := rootAt
	err := errors.Join(os.MkdirAll(work, 0o755), likeBelow(upper, v.lower[len(v.lower)-1]))
	if err == nil && v.place != "" {
		at, err = makeDir(rootAt, v.place, 0o755)
	}
	if err == nil {
		data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(lower, ":"), upper, work)
		if err = c.mount("overlay", at, "overlay", 0, data+wholly); errors.Is(err, unix.EINVAL) {
			err = c.mount("overlay", at, "overlay", 0, data) // a kernel that does not know them, and so does none of it
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", v.what, err)
	}
	return nil
}

// addOurs adds what is carte's to the layers, in a layer of its own, so that it is nobody's change: texts, the directory for
// results, directories to mount at. It hides what an ext4 has and no user's files.
func addOurs(o lab.Orders, all []overlaid) (err error) {
	c := &composition{}
	defer func() { err = errors.Join(err, c.undo()) }()
	for _, v := range all {
		if err := c.overlay(v, oursAt, v.lower...); err != nil {
			return err
		}
		if v.place != "" {
			if err := os.Remove(filepath.Join(c.mounted[len(c.mounted)-1], "lost+found")); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%s: %w", v.what, err)
			}
		}
	}
	dirs := []string{"/proc", "/sys", "/dev", "/run"}
	releases, err := kernelReleases(o)
	if err != nil {
		return err
	}
	for _, r := range releases {
		dirs = append(dirs, "/"+kernelModules+"/"+filepath.Base(r))
	}
	for _, dir := range dirs {
		if _, err := makeDir(rootAt, dir, 0o755); err != nil {
			return err
		}
	}
	out, err := makeDir(rootAt, lab.OutPlace, 0o755)
	if err != nil {
		return err
	}
	return errors.Join(os.Chmod(out, 0o777|os.ModeSticky), writeTexts(rootAt, o.Compose.Files))
}

// backDirs lists the images that are written back, with what is changed in each.
func backDirs(o lab.Orders, all []overlaid) (backs []backDir) {
	for _, w := range o.Writes {
		switch {
		case !w.Back || w.Form == lab.FormKernel:
		case w.Place != "":
			backs = append(backs, backDir{Image: w.Ref.Name, Upper: upperIn(upperAt, roomOf(w)), Place: w.Place})
		default:
			backs = append(backs, backDir{Image: w.Ref.Name, Upper: upperIn(upperAt, all[0].room), Place: "/"})
		}
	}
	return backs
}

// likeBelow makes an upper directory with the owner and the permissions of what it will lie over: the top of an overlay has
// those of its upper layer.
func likeBelow(upper, below string) error {
	var st unix.Stat_t
	if err := unix.Stat(below, &st); err != nil {
		return err
	}
	if err := os.MkdirAll(upper, 0o755); err != nil {
		return err
	}
	return errors.Join(unix.Chown(upper, int(st.Uid), int(st.Gid)), unix.Chmod(upper, st.Mode&0o7777))
}

// kernelReleases lists the directories of modules in the mounted kernel layer of some orders, if they have one.
func kernelReleases(o lab.Orders) (dirs []string, err error) {
	at, err := kernelAt(o)
	if err != nil {
		return nil, nil
	}
	releases, err := os.ReadDir(filepath.Join(at, kernelModules))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // all is built in
	}
	for _, r := range releases {
		dirs = append(dirs, filepath.Join(at, kernelModules, r.Name()))
	}
	return dirs, err
}

// bindModules shows lib/modules/RELEASE of the kernel where the root has its modules.
func (c *composition) bindModules(o lab.Orders) error {
	releases, err := kernelReleases(o)
	for _, r := range releases {
		at, e := makeDir(rootAt, "/"+kernelModules+"/"+filepath.Base(r), 0o755)
		if e == nil {
			e = c.mount(r, at, "", unix.MS_BIND, "")
		}
		err = errors.Join(err, e)
	}
	if err != nil {
		return fmt.Errorf("the kernel's modules: %w", err)
	}
	return nil
}

// notOverlaid says what it means that a tree does not offer the clause overlay.
func notOverlaid(o lab.Orders) string {
	if o.Form != lab.FormTree || o.Start == lab.StartLay || o.Compose.Gives(lab.Overlay) {
		return ""
	}
	return "the clause overlay is not given; carte lays a tree's changes over its base all the same: they are in a layer of their own, and gone at the next boot"
}
