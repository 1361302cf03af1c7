package power_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/labtest"
	"carte/netboot/power"
)

// A card on the wire hears its own address, as a broadcast.
func TestWakeOnTheWire(t *testing.T) {
	labtest.Netns(t, func(t *testing.T) {
		wire := labtest.NewWire(t, "lab0", netip.MustParsePrefix("10.77.0.1/24"))
		card := labtest.Cable(t, wire.Port(t))
		m := lab.Machine{Name: "nuc-1", MACs: []lab.MAC{"52:54:00:00:00:07", "52:54:00:00:00:08"}}
		if err := (power.WOL{Interface: wire.Name}).On(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if err := card.SetReadDeadline(time.Now().Add(labtest.Patience)); err != nil {
			t.Fatal(err)
		}
		frame := make([]byte, 2000)
		for last := byte(7); last <= 8; {
			n, err := card.Read(frame)
			if err != nil {
				t.Fatalf("no magic packet for the card ending in %02x: %v", last, err)
			}
			want := append(bytes.Repeat([]byte{0xff}, 6), bytes.Repeat([]byte{0x52, 0x54, 0, 0, 0, last}, 16)...)
			if bytes.HasPrefix(frame[:n], []byte("\xff\xff\xff\xff\xff\xff")) && bytes.HasSuffix(frame[:n], want) {
				last++
			}
		}
	})
}
