package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"carte/lab"
	"carte/lab/text"
)

// KindsName is the file of a lab's own kinds, in its folder. It need not be there.
const KindsName = "kinds.toml"

// readKinds reads the kinds that a lab has beside those that carte comes with. A file that is wrong is an error, which names
// the line: a lab that went on without a kind would forget what it has promised.
func readKinds(dir string) ([]lab.Kind, error) {
	file := filepath.Join(dir, KindsName)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the lab's own kinds: %w", err)
	}
	all, err := text.Kinds(b)
	if err == nil {
		err = lab.CheckKinds(all)
	}
	if err != nil {
		return nil, fmt.Errorf("%s, nothing was started: %w", file, err)
	}
	return all, nil
}
