package folder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"carte/lab"
)

// Kernel packs what an image of the form kernel is made of, as a tar: the kernel as boot/kernel, the initrd, if there is one,
// as boot/initrd, and modules, if there are any, as lib/modules/RELEASE. Modules is that folder, or one that has it in
// lib/modules, as make modules_install leaves it; the links to the kernel's sources are left out. All belongs to root. Close
// the reader. lab.ErrNotFound, lab.ErrInvalid: something is not there, or is something else.
func Kernel(kernel, initrd, modules string) (*Reader, error) {
	all := []item{{name: "boot"}}
	for _, x := range []struct{ as, file string }{{"boot/kernel", kernel}, {"boot/initrd", initrd}} {
		if x.file == "" {
			continue
		}
		it, st, err := find(x.as, x.file)
		switch {
		case err != nil:
			return nil, err
		case !st.Mode().IsRegular():
			return nil, fmt.Errorf("%s: %s is one file, and this is something else: %w", x.file, path.Base(x.as), lab.ErrInvalid)
		case st.Size() == 0:
			return nil, fmt.Errorf("%s is empty: %w", x.file, lab.ErrInvalid)
		}
		switch tar, err := isTar(x.file); {
		case err != nil:
			return nil, err
		case tar && x.as == "boot/initrd":
			return nil, fmt.Errorf("%s is a tar archive, and an initrd is a cpio archive, which may be packed: (cd DIR && find . | cpio -o -H newc) > initrd: %w", x.file, lab.ErrInvalid)
		case tar:
			return nil, fmt.Errorf("%s is a tar archive, and no kernel; one that has boot/kernel in it is imported without --kernel: %w", x.file, lab.ErrInvalid)
		}
		all = append(all, it)
	}
	if modules != "" {
		dir, err := release(modules)
		if err != nil {
			return nil, err
		}
		it, _, err := find("lib/modules/"+filepath.Base(dir), dir)
		if err != nil {
			return nil, err
		}
		all = append(all, item{name: "lib"}, item{name: "lib/modules"}, it)
	}
	r := begin(all...)
	r.skip = map[string]bool{}
	for _, link := range []string{"build", "source"} {
		r.skip[path.Join(all[len(all)-1].name, link)] = modules != ""
	}
	return r, nil
}

// isTar says whether a file is a tar archive that is not packed: its first header says so (POSIX 1003.1, ustar).
func isTar(file string) (bool, error) {
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	magic := make([]byte, 5)
	if _, err := f.ReadAt(magic, 257); err != nil && err != io.EOF {
		return false, err
	}
	return string(magic) == "ustar", nil
}

// find is the item of a file, or of what a link to one leads to.
func find(as, file string) (it item, st fs.FileInfo, err error) {
	at, err := filepath.EvalSymlinks(file)
	if err == nil {
		st, err = os.Stat(at)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return it, nil, fmt.Errorf("%s: %w", file, lab.ErrNotFound)
	case err != nil:
		return it, nil, err
	}
	return item{as, at, deviceOf(st), true}, st, nil
}

// release finds the folder of the one release whose modules are in or below dir.
func release(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return "", fmt.Errorf("%s is no folder with modules: %w", dir, lab.ErrNotFound)
	}
	if ofModules(dir) {
		return dir, nil
	}
	var found []string
	for _, below := range []string{"*", "lib/modules/*", "usr/lib/modules/*"} {
		list, err := filepath.Glob(filepath.Join(dir, below))
		if err != nil {
			return "", fmt.Errorf("%s: %v: %w", dir, err, lab.ErrInvalid)
		}
		for _, x := range list {
			if ofModules(x) {
				found = append(found, x)
			}
		}
		if len(found) > 0 {
			break
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("%s: there are no modules in it; it is /lib/modules/RELEASE, with modules.dep, or what make modules_install left: %w", dir, lab.ErrInvalid)
	case 1:
		return found[0], nil
	}
	for i, x := range found {
		found[i] = filepath.Base(x)
	}
	return "", fmt.Errorf("%s has modules of several kernels, %s; name the folder of one: %w", dir, strings.Join(found, ", "), lab.ErrInvalid)
}

// ofModules says whether a folder holds the modules of one release.
func ofModules(dir string) bool {
	for _, name := range []string{"modules.dep", "modules.order", "modules.builtin"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}
