package media

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/ulikunitz/xz"

	"carte/lab"
	"carte/lab/ext4"
	"carte/lab/modules"
)

// maxModule is the most bytes that a module has when it is unpacked. The largest of Debian's have 20 MB.
const maxModule = 256 << 20

// isModule says whether a file is a module, by its name.
func isModule(name string) bool {
	return strings.HasSuffix(strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, ".xz"), ".zst"), ".gz"), ".ko")
}

// unpackModule gives a module as it is when it is unpacked. lab.ErrInvalid: it is not what its name says.
func unpackModule(name string, b []byte) ([]byte, error) {
	var r io.Reader = bytes.NewReader(b)
	var closer func() error
	var err error
	switch path.Ext(name) {
	case ".xz":
		r, err = xz.NewReader(r)
	case ".zst":
		r, closer, err = openZstd(r)
	case ".gz":
		r, closer, err = openGzip(r)
	default:
		return b, nil
	}
	if err == nil {
		b, err = io.ReadAll(io.LimitReader(r, maxModule+1))
	}
	if closer != nil {
		err = errors.Join(err, closer())
	}
	if err == nil && len(b) > maxModule {
		err = fmt.Errorf("it has more than %s", lab.Bytes(maxModule))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, lab.ErrInvalid)
	}
	return b, nil
}

// moduleLists makes depmod's lists of the modules in dir, which is lib/modules/RELEASE. open reads one of its files. made is how many modules they are of,
// odd what is left out of them, in words; of no module there are no lists.
func moduleLists(dir *ext4.Node, open func(*ext4.Node) io.Reader) (lists map[string][]byte, made int, odd []string, err error) {
	var all []modules.Module
	var walk func(at string, n *ext4.Node) error
	walk = func(at string, n *ext4.Node) error {
		for _, name := range slices.Sorted(maps.Keys(n.Names)) {
			child, below := n.Names[name], path.Join(at, name)
			switch {
			case child.IsDir():
				if err := walk(below, child); err != nil {
					return err
				}
			case child.Mode&ext4.TypeMask == ext4.TypeFile && isModule(name):
				b, err := io.ReadAll(io.LimitReader(open(child), maxModule))
				if err != nil {
					return fmt.Errorf("module %s: %w", below, err)
				}
				var info modules.Info
				if b, err = unpackModule(name, b); err == nil {
					info, err = modules.Read(bytes.NewReader(b))
				}
				if err != nil {
					odd = append(odd, fmt.Sprintf("%s (%s)", below, lab.Words(err)))
					continue
				}
				all = append(all, modules.Module{Path: below, Info: info})
			}
		}
		return nil
	}
	if err := walk("", dir); err != nil || len(all) == 0 {
		return nil, 0, odd, err
	}
	var built modules.Built
	for name, text := range map[string]*[]byte{"modules.order": &built.Order, "modules.builtin": &built.Builtin, "modules.builtin.modinfo": &built.Modinfo} {
		if n := dir.Names[name]; n != nil && n.Mode&ext4.TypeMask == ext4.TypeFile {
			if *text, err = io.ReadAll(io.LimitReader(open(n), maxModule)); err != nil {
				return nil, 0, nil, err
			}
		}
	}
	lists, circle := modules.Lists(all, built)
	for _, name := range circle {
		odd = append(odd, name+" (it needs a module that needs it)")
	}
	return lists, len(all), odd, nil
}

// listed says whether modprobe has what it reads.
func listed(dir *ext4.Node) bool {
	return dir.Names["modules.dep"] != nil && dir.Names["modules.dep.bin"] != nil
}

// makeLists makes the lists of modules that came without them, as in a package that was not installed.
func (f *Files) makeLists(k *KernelFacts, dir *ext4.Node) error {
	if k.Modules == 0 || listed(dir) {
		return nil
	}
	lists, made, odd, err := moduleLists(dir, f.reader)
	if err != nil {
		return err
	}
	k.Made, k.Unlisted = made, odd
	for _, name := range slices.Sorted(maps.Keys(lists)) {
		text := lists[name]
		n := &ext4.Node{Mode: ext4.TypeFile | 0o644, Time: dir.Time, Size: int64(len(text))}
		if len(text) > 0 {
			n.Data = []ext4.Run{{Bytes: n.Size, From: f.spool.end}}
		}
		if err := f.spool.write(text); err != nil {
			return err
		}
		dir.Names[name] = n
	}
	return f.spool.seal()
}
