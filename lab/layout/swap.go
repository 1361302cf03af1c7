package layout

import "encoding/binary"

// swapMagic ends the first page of a swap area.
const swapMagic = "SWAPSPACE2"

// swap finds that all pages behind the first, up to the last that the header names, are free: what lies in them is lost when
// the system stops. A system that sleeps there has put another word in the place of swapMagic.
func (s *section) swap(x *found) {
	for _, page := range []int64{4 << 10, 64 << 10} {
		b := s.read(0, int(page))
		if b == nil || string(b[page-10:]) != swapMagic {
			continue
		}
		version, last := binary.LittleEndian.Uint32(b[1024:]), int64(binary.LittleEndian.Uint32(b[1028:]))
		if version != 1 || last < 1 || last >= s.size/page {
			x.Kept = "its header contradicts itself"
			return
		}
		x.Clean = true
		x.Bytes = (last + 1) * page
		x.free = []Extent{{s.off + page, last * page}}
		return
	}
	x.Kept = "its header cannot be read"
}
