package lab

import "slices"

// tidy makes an inventory fit to be kept and shown. Its words come from firmware and from whatever is plugged in, so they are cleaned; a disk's serial
// number and WWN are kept whole or not at all, because a disk is known by them; what is no card's address is left out.
func (inv *Inventory) tidy() {
	for _, s := range []*string{&inv.Vendor, &inv.Product, &inv.Serial, &inv.UUID, (*string)(&inv.Firmware), &inv.Arch, &inv.CPU} {
		*s = word(*s)
	}
	inv.Disks = slices.Clone(inv.Disks)
	for i := range inv.Disks {
		d := &inv.Disks[i]
		for _, id := range []*string{&d.Serial, &d.WWN} {
			if word(*id) != *id {
				*id = ""
			}
		}
		for _, s := range []*string{&d.Path, &d.Model, &d.Contents} {
			*s = word(*s)
		}
	}
	inv.NICs = slices.DeleteFunc(slices.Clone(inv.NICs), func(n NIC) bool {
		_, err := ParseMAC(string(n.MAC))
		return err != nil
	})
	for i := range inv.NICs {
		n := &inv.NICs[i]
		n.MAC, _ = ParseMAC(string(n.MAC))
		n.Name, n.Driver = word(n.Name), word(n.Driver)
	}
}

// word is a clean text of at most 256 bytes.
func word(s string) string { return cut(Clean(s), 256) }

// Looked says that somebody looked at the machine: an agent does, a shim that claims a boot which runs already does not.
func (v Inventory) Looked() bool { return v.Firmware != "" || len(v.Disks)+len(v.NICs) > 0 }
