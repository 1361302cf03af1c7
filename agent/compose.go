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
)

// Where a tree is put together. All lies in the initramfs, and out of reach once the user's system runs.
const (
	layersAt = "/carte/layers" // each layer's partition, by its number; never written
	upperAt  = "/carte/upper"  // what the user's system changes
	rootAt   = "/newroot"      // all, one over the other
)

// A composition is a tree that is put together, and not running yet.
//
//	layersAt/0             the base: read-only, its journal not replayed
//	layersAt/1 ...         kernel and files, the same way
//	upperAt                carte-scratch, made anew, or memory
//	upperAt/root/upper     what is changed in the root
//	upperAt/IMAGE.layer/upper  what is changed in files that are mounted at a place of their own
//	rootAt                 the root: overlay of what is changed, the files without a place, the last first, and the base
//	rootAt/lib/modules/*   of the kernel, bound to where the root has its /lib/modules
//	rootAt/PLACE           files with a place: an overlay of their own
type composition struct {
	init    string    // the program to start, as a path in the root
	backs   []backDir // files with a place; their Upper are paths below upperAt
	mounted []string  // in the order in which they were mounted
}

// compose puts the tree of o together from the partitions of its disk, which must be there. After an error nothing is left
// mounted.
func (h host) compose(ctx context.Context, o lab.Orders) (c *composition, err error) {
	c = &composition{}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.undo())
		}
	}()
	d, err := h.find(o.Disk)
	if err != nil {
		return nil, err
	}
	for i, w := range o.Writes {
		part, err := h.partition(d.name, w)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", o.Disk, err)
		}
		// noload: a journal that is replayed would write to what was just proven.
		if err := c.mount(part, layerAt(i), "ext4", unix.MS_RDONLY, "noload"); err != nil {
			return nil, fmt.Errorf("%s does not mount as ext4 (%w): %w", w.Ref, err, lab.ErrInvalid)
		}
	}
	if err := h.mountUpper(c, d, o); err != nil {
		return nil, err
	}
	if err := c.mountRoot(o); err != nil {
		return nil, err
	}
	if err := c.mountOver(o); err != nil {
		return nil, err
	}
	if err := errors.Join(c.outPlace(), writeTexts(rootAt, o.Compose.Files)); err != nil {
		return nil, err
	}
	if c.init, err = findInit(rootAt); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Writes[0].Ref, err)
	}
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

// mountRoot lays the files that have no place, and then an empty upper layer, over the base.
func (c *composition) mountRoot(o lab.Orders) error {
	lower := []string{layerAt(0)}
	for i, w := range o.Writes {
		if i > 0 && w.Form == lab.FormFiles && w.Place == "" {
			lower = append(lower, layerAt(i))
		}
	}
	slices.Reverse(lower) // the kernel wants the topmost first; of layers the last wins
	return c.overlay(rootAt, upperAt+"/root", lower...)
}

// overlay mounts the layers, the topmost first, at a directory, with changes going to room/upper. What is changed must be whole
// there for whoever reads it later: no redirects, no files of which only the metadata is there.
func (c *composition) overlay(at, room string, lower ...string) error {
	upper, work := room+"/upper", room+"/work"
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	if err := likeBelow(upper, lower[len(lower)-1]); err != nil {
		return err
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(lower, ":"), upper, work)
	err := c.mount("overlay", at, "overlay", 0, data+",redirect_dir=off,metacopy=off")
	if errors.Is(err, unix.EINVAL) { // a kernel that has neither, and so does neither
		err = c.mount("overlay", at, "overlay", 0, data)
	}
	return err
}

// mountOver mounts what has a place in the root: the kernel's modules, and files.
func (c *composition) mountOver(o lab.Orders) error {
	for i, w := range o.Writes {
		switch {
		case i > 0 && w.Form == lab.FormKernel:
			if err := c.bindModules(layerAt(i)); err != nil {
				return fmt.Errorf("the modules of %s: %w", w.Ref, err)
			}
		case w.Place != "":
			at, err := makeDir(rootAt, w.Place, 0o755)
			if err != nil {
				return fmt.Errorf("%s is to be at %s: %w", w.Ref, w.Place, err)
			}
			room := filepath.Join(upperAt, w.Ref.Name+".layer")
			mask, err := masking(room)
			if err != nil {
				return err
			}
			if err := c.overlay(at, room, mask, layerAt(i)); err != nil {
				return fmt.Errorf("%s at %s: %w", w.Ref, w.Place, err)
			}
			c.backs = append(c.backs, backDir{Image: w.Ref.Name, Upper: room + "/upper", Place: w.Place})
		}
	}
	return nil
}

// masking makes a layer that hides what every ext4 has and no user's files: it is not their change.
func masking(room string) (dir string, err error) {
	dir = room + "/mask"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, unix.Mknod(dir+"/lost+found", unix.S_IFCHR, 0) // a whiteout
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

// bindModules shows lib/modules/RELEASE of a mounted kernel image where the root has its modules.
func (c *composition) bindModules(kernel string) error {
	releases, err := os.ReadDir(filepath.Join(kernel, "lib/modules"))
	if errors.Is(err, os.ErrNotExist) {
		return nil // all is built in
	}
	if err != nil {
		return err
	}
	for _, r := range releases {
		at, err := makeDir(rootAt, filepath.Join("/lib/modules", r.Name()), 0o755)
		if err != nil {
			return err
		}
		if err := c.mount(filepath.Join(kernel, "lib/modules", r.Name()), at, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

// outPlace makes the directory for results.
func (c *composition) outPlace() error {
	at, err := makeDir(rootAt, lab.OutPlace, 0o755)
	if err != nil {
		return fmt.Errorf("make %s: %w", lab.OutPlace, err)
	}
	return os.Chmod(at, 0o777|os.ModeSticky)
}

// notOverlaid says what it means that a tree does not offer the clause overlay.
func notOverlaid(o lab.Orders) string {
	if o.Form != lab.FormTree || o.Start == lab.StartLay || o.Compose.Gives(lab.Overlay) {
		return ""
	}
	return "the clause overlay is not given; carte lays a tree's changes over its base all the same: they are in a layer of their own, and gone at the next boot"
}
