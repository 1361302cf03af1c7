package lab

import "fmt"

// A DiskTail is carte's own region at the end of a disk, behind all that an image may occupy: behind the last block that a
// partition table of the disk may give away, and in no partition. It holds the machine image and a cache of chunks, and it
// outlives what is flashed before it. Both numbers are in bytes and multiples of 1 MiB; no bytes are no tail.
//
//	Offset                  the machine image, 64 MiB
//	Offset + 64 MiB         the cache
//	Offset + Bytes - 4 KiB  a page that says what this is
//	Offset + Bytes          up to 2 MiB that stay for the copy of the partition table, and for what is left over
type DiskTail struct {
	Offset int64 `json:"offset_bytes"`
	Bytes  int64 `json:"bytes"`
}

// What a tail is made of, in bytes.
const (
	TailDefault = -1        // the setting that lets the disk decide
	TailLeast   = 128 << 20 // a shorter one is not worth having
	TailMost    = 16 << 30  // that a disk decides on
	TailMachine = 64 << 20
	TailHeader  = 4 << 10

	tailUnit = 1 << 20 // the tail begins and ends at multiples of it, and so much stays behind it at least
)

// None says that there is no tail.
func (t DiskTail) None() bool { return t.Bytes == 0 }

// End returns the first byte behind the tail.
func (t DiskTail) End() int64 { return t.Offset + t.Bytes }

// Machine returns the place and length of the machine image.
func (t DiskTail) Machine() (off, n int64) { return t.Offset, min(t.Bytes, TailMachine) }

// Cache returns the place and length of the cache.
func (t DiskTail) Cache() (off, n int64) {
	return t.Offset + TailMachine, max(t.Bytes-TailMachine-TailHeader, 0)
}

// Header returns the place of the page that says what the tail is, TailHeader bytes long.
func (t DiskTail) Header() int64 { return t.End() - TailHeader }

// TailOf returns the tail of a disk of so many bytes, whatever is to be laid on it. setting is a number of bytes, rounded
// down to 1 MiB; 0 for no tail; TailDefault for a tenth of the disk, at most TailMost. What comes to less than TailLeast, or
// to more than the disk has, is none.
func TailOf(disk, setting int64) DiskTail {
	n := setting
	if n < 0 {
		n = min(disk/10, TailMost)
	}
	n -= n % tailUnit
	end := disk - tailUnit
	end -= end % tailUnit
	if n < TailLeast || n > end {
		return DiskTail{}
	}
	return DiskTail{Offset: end - n, Bytes: n}
}

// tail is the machine's setting, as TailOf takes it.
func (m Machine) tail() int64 {
	switch {
	case m.Tail == 0:
		return TailDefault
	case m.Tail < 0:
		return 0
	}
	return m.Tail
}

// TailOn returns the tail that this machine's setting comes to on a disk, beside what carte has laid there.
func (s Snapshot) TailOn(m Machine, disk DiskID) DiskTail {
	need := int64(0)
	if h, ok := m.lastHeld(nil, PlanCapture{Disk: disk}); ok {
		need = s.Images[h.Ref.Name].Form.offset() + s.Versions[h.Ref.String()].Bytes
		for _, o := range h.Over {
			need = max(need, o.Offset+s.Versions[o.Ref.String()].Bytes)
		}
	}
	t, _ := TailFor(disk.Bytes, m.tail(), need) // one that does not fit is not there
	return t
}

// roomForTail refuses a tail that was asked for and that no armed disk has room for, even were nothing else there.
func (m Machine) roomForTail() error {
	var first error
	for _, a := range m.Arms {
		_, err := TailFor(a.Bytes, m.tail(), 0)
		if err == nil {
			return nil
		}
		if first == nil {
			first = fmt.Errorf("disk %s of %s: %w", a.DiskID, m.Label(), err)
		}
	}
	return first
}

// roomFor refuses a plan that the disk has no room for, beside the tail that was asked for.
func (m Machine) roomFor(p Plan, disk DiskID) error {
	if short := p.Bytes() - disk.Bytes; short > 0 {
		return fmt.Errorf("disk %s is %s too small for %s: %w", disk, exactly(short), p.Stack, ErrRefused)
	}
	if _, err := TailFor(disk.Bytes, m.tail(), p.need()); err != nil {
		return fmt.Errorf("disk %s, %s: %w", disk, p.Stack, err)
	}
	return nil
}

// TailFor returns the tail that a disk has while its first need bytes are an image's. A tail that the disk decided on gives
// way to an image that needs its room; for a tail that was asked for this is ErrRefused, and says how much is missing.
func TailFor(disk, setting, need int64) (DiskTail, error) {
	t := TailOf(disk, setting)
	switch {
	case setting >= 0 && setting < TailLeast: // none was asked for, or none worth having
		return DiskTail{}, nil
	case !t.None() && need <= t.Offset:
		return t, nil
	case setting < 0:
		return DiskTail{}, nil
	}
	asked := setting - setting%tailUnit
	room := max(disk-tailUnit, 0)
	room -= room % tailUnit
	what := "a tail of " + exactly(asked) + " needs"
	if need > 0 {
		what = fmt.Sprintf("%s for images and a tail of %s need", exactly(need), exactly(asked))
	}
	return DiskTail{}, fmt.Errorf("%s %s more than the disk of %s has (%s stay for its partition table); make the tail smaller, or leave its size to the disk with tail=auto: %w",
		what, exactly(need+asked-room), exactly(disk), exactly(disk-room), ErrRefused)
}
