package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// always are modules that a second stage has whatever the hardware: file systems, what they ask for by name, and what virtual
// machines need, which are cheap.
var always = []string{
	"crc32c", "crc32c_generic", "ext4", "overlay", "loop", "fuse", "dm_mod", "af_packet",
	"virtio_pci", "virtio_blk", "virtio_scsi", "virtio_net", "virtio_rng", "sd_mod", "nvme", "ahci",
}

// modaliases are those of the devices between the machine and one disk, and between it and each of its network cards: of a disk,
// say, the disk itself, its controller, and the bridges before that.
func (h host) modaliases(disk string) (all []string) {
	ends := []string{filepath.Join(h.sys, "block", disk)}
	cards, _ := filepath.Glob(filepath.Join(h.sys, "class/net/*/device")) // the pattern is good
	for _, end := range append(ends, cards...) {
		top := filepath.Join(h.sys, "devices")
		dir, err := filepath.EvalSymlinks(end)
		for err == nil && strings.HasPrefix(dir, top+"/") {
			if b, e := os.ReadFile(filepath.Join(dir, "modalias")); e == nil {
				all = append(all, strings.TrimSpace(string(b)))
			}
			dir = filepath.Dir(dir)
		}
	}
	phys, _ := filepath.Glob(filepath.Join(h.sys, "class/net/*/phydev/phy_id")) // the pattern is good
	for _, file := range phys {
		var id uint32
		if b, err := os.ReadFile(file); err == nil {
			if _, err := fmt.Sscanf(string(b), "0x%x", &id); err == nil {
				all = append(all, fmt.Sprintf("mdio:%032b", id)) // as the kernel asks for the driver of a transceiver
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}
