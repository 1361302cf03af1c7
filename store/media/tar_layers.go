package media

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"carte/lab"
	"carte/lab/ext4"
)

// What an image with layers is made of: what docker save writes (a manifest.json), and the OCI image layout (specification 1.1, image-layout.md, image-index.md
// and layer.md).
type (
	savedImage struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Platform  *struct {
			OS   string `json:"os"`
			Arch string `json:"architecture"`
		} `json:"platform"`
	}
	manifest struct {
		Manifests []descriptor `json:"manifests"` // of an index
		Layers    []descriptor `json:"layers"`    // of an image
	}
)

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
	maxJSON  = 4 << 20
	maxIndex = 4 // indexes in indexes
)

// hasLayers says that the files are an image with layers, and not what somebody's machine is to run.
func (f *Files) hasLayers() bool {
	_, saved := f.saved()
	return saved || f.at("oci-layout") != nil && f.at("index.json") != nil && f.at("blobs") != nil
}

// saved reads the table of contents of docker save.
func (f *Files) saved() (all []savedImage, ok bool) {
	if f.json("manifest.json", &all) != nil || len(all) == 0 {
		return nil, false
	}
	for _, im := range all {
		for _, l := range im.Layers {
			if n := f.follow(l); n == nil || n.IsDir() {
				return nil, false
			}
		}
	}
	return all, true
}

// json reads a small file.
func (f *Files) json(name string, into any) error {
	b, err := f.read(name, maxJSON)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w: %w", name, err, lab.ErrDamaged)
	}
	return nil
}

// layers lists the files that are the image's layers, the lowest first.
func (f *Files) layers() ([]string, error) {
	if all, ok := f.saved(); ok {
		if len(all) > 1 {
			var names []string
			for _, im := range all {
				names = append(names, cmp.Or(strings.Join(im.RepoTags, ","), im.Config))
			}
			return nil, fmt.Errorf("the archive holds %d images (%s), and one file system is made of one: save it alone: %w", len(all), strings.Join(names, "; "), lab.ErrInvalid)
		}
		return all[0].Layers, nil
	}
	name := "index.json"
	for range maxIndex {
		var m manifest
		if err := f.json(name, &m); err != nil {
			return nil, err
		}
		if len(m.Manifests) == 0 {
			var all []string
			for _, l := range m.Layers {
				blob, err := blobOf(l.Digest)
				if err != nil {
					return nil, err
				}
				all = append(all, blob)
			}
			return all, nil
		}
		d, err := choose(m.Manifests)
		if err != nil {
			return nil, err
		}
		if name, err = blobOf(d.Digest); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%s: indexes in indexes: %w", name, lab.ErrInvalid)
}

// choose takes the image for Linux on x86-64, or the only one there is.
func choose(all []descriptor) (descriptor, error) {
	all = slices.DeleteFunc(slices.Clone(all), func(d descriptor) bool { return d.Platform != nil && d.Platform.OS == "unknown" }) // proofs of where it was built
	var names []string
	var fit []descriptor
	for _, d := range all {
		if d.Platform == nil {
			names = append(names, d.Digest)
			continue
		}
		names = append(names, d.Platform.OS+"/"+d.Platform.Arch)
		if d.Platform.OS == "linux" && d.Platform.Arch == "amd64" {
			fit = append(fit, d)
		}
	}
	switch {
	case len(fit) == 1:
		return fit[0], nil
	case len(all) == 1:
		return all[0], nil
	}
	return descriptor{}, fmt.Errorf("the archive holds %d images (%s), and one file system is made of one: save it alone: %w", len(all), strings.Join(names, "; "), lab.ErrInvalid)
}

// blobOf is where a layout keeps what has a digest.
func blobOf(digest string) (string, error) {
	sum, ok := strings.CutPrefix(digest, "sha256:")
	if b, err := hex.DecodeString(sum); !ok || err != nil || len(b) != sha256.Size {
		return "", fmt.Errorf("digest %q, and carte knows sha256: %w", digest, lab.ErrInvalid)
	}
	return "blobs/sha256/" + sum, nil
}

// flatten makes the files of an image of its layers.
func (f *Files) flatten(ctx context.Context, temp string) (*Files, error) {
	layers, err := f.layers()
	if err != nil {
		return f, err
	}
	g := newFiles(f.spool)
	for i, name := range layers {
		g.layer++
		if err := f.apply(ctx, g, name, temp); err != nil {
			return f, fmt.Errorf("layer %d of %d (%s): %w", i+1, len(layers), name, err)
		}
	}
	g.sweep()
	g.Notes = append(g.Notes, fmt.Sprintf("the files of an image with %d layers; what it says to start is not started: a stack starts an init", len(layers)))
	return g, nil
}

// apply lays one layer over those before.
func (f *Files) apply(ctx context.Context, g *Files, name, temp string) error {
	n := f.follow(name)
	if n == nil || n.Mode&ext4.TypeMask != ext4.TypeFile {
		return fmt.Errorf("it is not in the archive: %w", lab.ErrInvalid)
	}
	sum := sha256.New()
	raw := io.TeeReader(f.reader(n), sum)
	src, err := OpenReader(ctx, raw, "the layer", temp)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := g.readTar(ctx, src); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return err
	}
	if want, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && want != hex.EncodeToString(sum.Sum(nil)) {
		return fmt.Errorf("its bytes are not those of its digest: %w", lab.ErrDamaged)
	}
	return f.spool.seal()
}

// white takes away what a whiteout names: a file of a layer below, or all of them in a directory.
func (f *Files) white(name string) error {
	dir, base := path.Split(name)
	d := f.at(dir)
	switch {
	case d == nil || !d.IsDir():
	case base == opaque:
		f.prune(d)
	default:
		gone := strings.TrimPrefix(base, whiteout)
		if old := d.Names[gone]; old != nil && f.born[old] != f.layer {
			delete(d.Names, gone)
		}
	}
	return nil
}

// prune takes all out of a directory that no member of this layer has put there, and says whether something is left.
func (f *Files) prune(dir *ext4.Node) bool {
	for name, n := range dir.Names {
		if left := n.IsDir() && f.prune(n); !left && f.born[n] != f.layer {
			delete(dir.Names, name)
		}
	}
	return len(dir.Names) > 0
}

// sweep forgets the nodes that no directory holds any more.
func (f *Files) sweep() {
	held := map[*ext4.Node]bool{f.root: true}
	for todo := []*ext4.Node{f.root}; len(todo) > 0; {
		n := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, child := range n.Names {
			if !held[child] {
				held[child] = true
				todo = append(todo, child)
			}
		}
	}
	f.nodes = slices.DeleteFunc(f.nodes, func(n *ext4.Node) bool { return !held[n] })
}
