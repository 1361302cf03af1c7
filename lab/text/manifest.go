package text

import (
	"fmt"
	"slices"

	"carte/lab"
)

// A Manifest is what an image says of itself, in a small file inside it: /carte/image.toml in a tree, that or /carte.toml in
// files.
type Manifest struct {
	Offers lab.Terms  // clauses that it offers; nil: it does not say; empty: none
	Place  string     // where files are mounted; empty: as their kind has it
	Kernel KernelPart // of a kernel image
}

// A KernelPart is what a kernel image says of its kernel.
type KernelPart struct {
	Cmdline string `toml:"cmdline"` // that its kernel should have
	Starts  string `toml:"starts"`  // linux, multiboot, elf or efi; empty: what its bytes look like
}

// manifestFile is the file as it is written.
type manifestFile struct {
	Place   string             `toml:"place"`
	Clauses *map[string]string `toml:"clauses"` // not there says less than empty
	Kernel  KernelPart         `toml:"kernel"`
}

// kernelStarts are the ways that a kernel can be started.
var kernelStarts = []string{"", "linux", "multiboot", "elf", "efi"}

// ParseManifest reads a manifest. lab.ErrInvalid names the line, or the word, that is wrong.
func ParseManifest(b []byte) (m Manifest, err error) {
	var f manifestFile
	if err := decode(b, &f); err != nil {
		return m, fmt.Errorf("manifest: %w", err)
	}
	m = Manifest{Place: f.Place, Kernel: f.Kernel}
	if f.Clauses != nil {
		m.Offers = terms(*f.Clauses)
	}
	if err := m.Offers.Check(); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if !slices.Contains(kernelStarts, m.Kernel.Starts) {
		return Manifest{}, fmt.Errorf("manifest: kernel.starts is %q; it is linux, multiboot, elf or efi: %w", m.Kernel.Starts, lab.ErrInvalid)
	}
	return m, nil
}

// terms turns words of a file into terms.
func terms(words map[string]string) lab.Terms {
	t := lab.Terms{}
	for c, need := range words {
		t[lab.Clause(c)] = lab.Need(need)
	}
	return t
}
