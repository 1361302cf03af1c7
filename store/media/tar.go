package media

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"carte/lab"
	"carte/lab/ext4"
)

// maxFiles is how many files a file system may have here: what is known of each is kept in memory.
const maxFiles = 4 << 20

// ReadFiles reads a tar stream to its end; a docker save archive or an OCI layout in it becomes the files of its image, layer by layer. temp is the
// folder for the contents, which need as much room as the files; "" is the system's.
//
// Kept are directories, regular files with their holes, hard and symbolic links, devices, pipes, owners by number, modes, modification times, extended
// attributes and POSIX access lists. What was left out is in Notes.
//
// lab.ErrInvalid: a member that cannot be kept, or that is a trap: an absolute name or one with "..", one that comes twice, that lies below something that
// is no directory, or that is longer than the room there is. lab.ErrDamaged: the tar is corrupt or has no end. Both name the member.
func ReadFiles(ctx context.Context, in io.Reader, temp string) (*Files, error) {
	s, err := newSpool(temp)
	if err != nil {
		return nil, err
	}
	f := newFiles(s)
	if err = f.readTar(ctx, in); err == nil {
		if err = s.seal(); err == nil && f.hasLayers() {
			f, err = f.flatten(ctx, temp)
		}
	}
	if err == nil {
		err = s.seal()
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	for _, what := range slices.Sorted(maps.Keys(f.left)) {
		f.Notes = append(f.Notes, fmt.Sprintf("left out, of %d files: %s", f.left[what], what))
	}
	return f, nil
}

func newFiles(s *spool) *Files {
	root := &ext4.Node{Mode: ext4.TypeDir | 0o755, Names: map[string]*ext4.Node{}}
	return &Files{root: root, nodes: []*ext4.Node{root}, born: map[*ext4.Node]int{}, spool: s, bytes: s.f, left: map[string]int{}}
}

// exact counts what is read, and the zeros at its end, and never reads ahead, so that the end mark of a tar can be told from the end of the file.
type exact struct {
	r     io.Reader
	n     int64
	zeros int64
}

func (e *exact) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.n += int64(n)
	if rest := bytes.TrimRight(p[:n], "\x00"); len(rest) > 0 {
		e.zeros = int64(n - len(rest))
	} else {
		e.zeros += int64(n)
	}
	return n, err
}

// readTar takes the entries in.
func (f *Files) readTar(ctx context.Context, in io.Reader) error {
	return walkTar(ctx, in, func(h *tar.Header, r io.Reader) error { return f.member(ctx, h, r) })
}

// walkTar hands over the entries, and names the one that is wrong. archive/tar takes the end of the file for the end of the tar; here that is damage.
func walkTar(ctx context.Context, in io.Reader, member func(*tar.Header, io.Reader) error) error {
	src := &exact{r: bufio.NewReaderSize(in, 256<<10)}
	r := tar.NewReader(src)
	name, end := "the first entry", int64(0) // where the next header begins
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := r.Next()
		if err == io.EOF {
			if src.n < end+512 || src.zeros < 512 { // the second: not the header that announces another
				return fmt.Errorf("tar: cut off after %q at byte %d: %w", name, src.n, lab.ErrDamaged)
			}
			_, err := io.Copy(io.Discard, src) // what it is packed in may say only at its end that it is damaged
			return err
		}
		if err != nil && (ctx.Err() != nil || errors.Is(err, lab.ErrDamaged)) {
			return cmp.Or(ctx.Err(), err) // of the packing
		}
		if err != nil {
			return fmt.Errorf("tar: after %q at byte %d: %w: %w", name, src.n, err, lab.ErrDamaged)
		}
		name = h.Name
		if err := member(h, r); err != nil {
			if errors.Is(err, io.ErrUnexpectedEOF) {
				return fmt.Errorf("tar: cut off inside %q at byte %d: %w", name, src.n, lab.ErrDamaged)
			}
			return fmt.Errorf("tar: %q: %w", name, err)
		}
		end = (src.n + 511) &^ 511
	}
}

// member takes one entry in.
func (f *Files) member(ctx context.Context, h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	f.came++
	name, err := memberName(h.Name)
	if err != nil {
		return err
	}
	if f.layer > 0 && strings.HasPrefix(path.Base(name), whiteout) {
		return f.white(name)
	}
	dir, base, err := f.parent(name, h.ModTime)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeLink {
		return f.link(h, dir, base)
	}
	n := &ext4.Node{Path: name, Mode: uint16(h.Mode) & 0o7777, UID: uint32(h.Uid), GID: uint32(h.Gid), Time: h.ModTime}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<32-2 || int64(h.Gid) > 1<<32-2 {
		return fmt.Errorf("the owner %d:%d is no number that Linux knows: %w", h.Uid, h.Gid, lab.ErrInvalid)
	}
	if err := f.fill(n, h); err != nil {
		return err
	}
	n, err = f.put(n, dir, base)
	if err != nil || n.Mode&ext4.TypeMask != ext4.TypeFile {
		return err
	}
	sparse := h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" || h.PAXRecords[lab.SparseRecord] != ""
	if n.Size > ext4.MaxSize {
		return fmt.Errorf("it declares %s, and the largest file system has %s: %w", lab.Bytes(n.Size), lab.Bytes(ext4.MaxSize), lab.ErrInvalid)
	}
	if !sparse {
		if err := f.spool.room(n.Size); err != nil {
			return err
		}
	}
	n.Data, err = f.spool.keep(ctx, r, n.Size, sparse)
	return err
}

// memberName is a name as it is below the root, "" for the root itself. A tar that names what lies outside of it is not put right: it is not what somebody
// meant to pack.
func memberName(s string) (string, error) {
	if strings.HasPrefix(s, "/") {
		return "", fmt.Errorf("its name is absolute; pack the folder anew, from inside: tar -C FOLDER -c . : %w", lab.ErrInvalid)
	}
	if slices.Contains(strings.Split(s, "/"), "..") {
		return "", fmt.Errorf("its name leads out of the tree by \"..\": %w", lab.ErrInvalid)
	}
	if strings.ContainsRune(s, 0) {
		return "", fmt.Errorf("its name has a zero byte: %w", lab.ErrInvalid)
	}
	name := path.Clean("/" + s)[1:]
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > ext4.MaxName {
			return "", fmt.Errorf("a name of %d bytes, ext4 holds %d: %w", len(part), ext4.MaxName, lab.ErrInvalid)
		}
	}
	return name, nil
}

// parent finds the directory that a name is in, and makes it where the tar has left it out: the root's, and readable by all.
func (f *Files) parent(name string, at time.Time) (*ext4.Node, string, error) {
	dir, so := f.root, ""
	folder, base := path.Split(name)
	for part := range strings.SplitSeq(strings.TrimSuffix(folder, "/"), "/") {
		if part == "" {
			continue
		}
		so = path.Join(so, part)
		next := dir.Names[part]
		if next == nil {
			next = &ext4.Node{Path: so, Mode: ext4.TypeDir | 0o755, Time: at}
			if err := f.insert(next, dir, part); err != nil {
				return nil, "", err
			}
		}
		if !next.IsDir() {
			return nil, "", fmt.Errorf("it lies below %q, which is no directory: %w", so, lab.ErrInvalid)
		}
		dir = next
	}
	return dir, base, nil
}

// insert hangs a new node into a directory.
func (f *Files) insert(n, dir *ext4.Node, base string) error {
	if len(f.nodes) == maxFiles {
		return fmt.Errorf("there are more than %d files: %w", maxFiles, lab.ErrInvalid)
	}
	if n.IsDir() {
		n.Names = map[string]*ext4.Node{}
	}
	dir.Names[base] = n
	f.nodes = append(f.nodes, n)
	if f.layer > 0 {
		f.born[n] = f.layer
	}
	return nil
}

// put hangs a node in, or gives the directory that is there already what the node says. The node that is in the tree then is returned.
func (f *Files) put(n, dir *ext4.Node, base string) (*ext4.Node, error) {
	old := dir.Names[base]
	if base == "" {
		old = f.root
	}
	switch {
	case old == nil:
		return n, f.insert(n, dir, base)
	case old.IsDir() && n.IsDir():
		old.Mode, old.UID, old.GID, old.Time, old.Xattrs = n.Mode, n.UID, n.GID, n.Time, n.Xattrs
		return old, nil
	case base == "":
		return nil, fmt.Errorf("the root must be a directory: %w", lab.ErrInvalid)
	case f.layer > 0 && f.born[old] != f.layer:
		return n, f.insert(n, dir, base)
	}
	return nil, fmt.Errorf("it comes twice: %w", lab.ErrInvalid)
}

// link gives a file one more name.
func (f *Files) link(h *tar.Header, dir *ext4.Node, base string) error {
	to, err := memberName(h.Linkname)
	if err != nil {
		return fmt.Errorf("a link to %q: %w", h.Linkname, err)
	}
	n := f.at(to)
	if n == nil || n.IsDir() {
		return fmt.Errorf("a link to %q, which is no file that came before it: %w", h.Linkname, lab.ErrInvalid)
	}
	old := dir.Names[base]
	if base == "" || old != nil && (f.layer == 0 || f.born[old] == f.layer && old != n) {
		return fmt.Errorf("it comes twice: %w", lab.ErrInvalid)
	}
	dir.Names[base] = n
	return nil
}

// at finds a node without following links; nil if there is none.
func (f *Files) at(name string) *ext4.Node {
	n := f.root
	for part := range strings.SplitSeq(name, "/") {
		if part != "" && n != nil {
			n = n.Names[part]
		}
	}
	return n
}

// fill copies what a header says about a file.
func (f *Files) fill(n *ext4.Node, h *tar.Header) error {
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeRegA, tar.TypeCont, tar.TypeGNUSparse:
		n.Mode, n.Size = n.Mode|ext4.TypeFile, h.Size
		if strings.HasSuffix(h.Name, "/") { // of a time before there was a type for it
			n.Mode, n.Size = n.Mode&0o7777|ext4.TypeDir, 0
		}
	case tar.TypeSymlink:
		n.Mode, n.Link = ext4.TypeLink|0o777, h.Linkname
		if n.Link == "" || len(n.Link) > ext4.MaxLink {
			return fmt.Errorf("a symbolic link of %d bytes, ext4 holds 1 to %d: %w", len(n.Link), ext4.MaxLink, lab.ErrInvalid)
		}
	case tar.TypeFifo:
		n.Mode |= ext4.TypeFIFO
	case tar.TypeChar, tar.TypeBlock:
		n.Mode |= ext4.TypeChar
		if h.Typeflag == tar.TypeBlock {
			n.Mode = n.Mode&0o7777 | ext4.TypeBlock
		}
		if h.Devmajor < 0 || h.Devmajor > 0xfff || h.Devminor < 0 || h.Devminor > 0xfffff {
			return fmt.Errorf("device %d:%d, Linux counts to 4095:1048575: %w", h.Devmajor, h.Devminor, lab.ErrInvalid)
		}
		n.Major, n.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	case tar.TypeDir:
		n.Mode |= ext4.TypeDir
	default:
		return fmt.Errorf("an entry of type %q cannot be kept: %w", h.Typeflag, lab.ErrInvalid)
	}
	return f.attributes(n, h.PAXRecords)
}
