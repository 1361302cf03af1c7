package store

import (
	"context"
	"fmt"

	"carte/lab"
	"carte/lab/layout"
)

// look maps a version whose manifest is here.
func (d *Desk) look(ctx context.Context, v lab.AddVersion) (*layout.Map, error) {
	r, err := d.State.Chunks.Reader(v.Root)
	if err != nil {
		return nil, err
	}
	found, err := layout.Read(ctx, r, v.Bytes)
	if err != nil {
		return nil, fmt.Errorf("look into %s: %w", v.Image, err)
	}
	return &found, nil
}

// holders are what partitions hold that is no file system, although one may be inside.
var holders = map[string]bool{"": true, "swap": true, "hibernation": true, "luks": true, "lvm": true, "linux raid": true, "bcache": true, "bitlocker": true}

// fileSystems adds up how far the file systems of a disk reach.
func fileSystems(found layout.Map) (n int64) {
	for _, x := range found.Systems {
		if !holders[x.Type] {
			n += x.Bytes
		}
	}
	return n
}

// telling is the size from which on it matters to people that free space is kept: what boot loaders have is smaller.
const telling = 16 << 20

// keptSpace says which free space was kept, and why.
func keptSpace(found layout.Map) (all []string) {
	for _, x := range found.Systems {
		if x.Kept != "" && x.Bytes >= telling {
			all = append(all, fmt.Sprintf("whatever is free in the %s at byte %d (%s) is kept: %s", lab.Bytes(x.Bytes), x.Off, lab.Clean(x.String()), lab.Clean(x.Kept)))
		}
	}
	return all
}
