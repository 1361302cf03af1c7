package power

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"carte/lab"

	"golang.org/x/sys/unix"
)

// WOL is the driver of machines that wake when their card sees a magic packet. It
// can only switch on, and never knows whether that worked: whether the machine is
// on shows when it asks for a boot.
type WOL struct {
	// Interface is the lab's network interface. Packets leave by no other.
	Interface string
}

// On sends a magic packet for each of m's cards.
func (w WOL) On(ctx context.Context, m lab.Machine) error {
	if w.Interface == "" {
		return fmt.Errorf("wake-on-LAN needs the lab's network interface: carte serve --interface NAME: %w", lab.ErrInvalid)
	}
	if len(m.MACs) == 0 {
		return fmt.Errorf("%s has no network card's address to wake: %w", m.Label(), lab.ErrInvalid)
	}
	c, err := w.socket(ctx)
	if err != nil {
		return fmt.Errorf("wake %s by %s: %w", m.Label(), w.Interface, err)
	}
	for _, s := range m.MACs {
		mac, parseErr := net.ParseMAC(string(s))
		if parseErr == nil {
			_, parseErr = c.WriteTo(magic(mac), &net.UDPAddr{IP: net.IPv4bcast, Port: 9})
		}
		err = errors.Join(err, parseErr)
	}
	if err := errors.Join(err, c.Close()); err != nil {
		return fmt.Errorf("wake %s by %s: %w", m.Label(), w.Interface, err)
	}
	return nil
}

// Off asks for a person: a magic packet only wakes.
func (WOL) Off(_ context.Context, m lab.Machine) error {
	return Instruction("wake-on-LAN cannot switch off: hold the power button of " + m.Label())
}

// Cycle wakes m, which does nothing to a machine that runs: that one has to be
// restarted by whoever runs it.
func (w WOL) Cycle(ctx context.Context, m lab.Machine) error { return w.On(ctx, m) }

// State is always unknown.
func (WOL) State(context.Context, lab.Machine) (string, error) { return StateUnknown, nil }

// socket opens a UDP socket that sends broadcasts on the interface, whatever the
// routes say.
func (w WOL) socket(ctx context.Context) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		controlErr := c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1),
				unix.BindToDevice(int(fd), w.Interface))
		})
		return errors.Join(controlErr, err)
	}}
	return lc.ListenPacket(ctx, "udp4", ":0")
}

// magic is the packet that wakes a card: six bytes of ones, then its address
// sixteen times (AMD, Magic Packet Technology, publication 20213).
func magic(mac net.HardwareAddr) []byte {
	return append(bytes.Repeat([]byte{0xff}, 6), bytes.Repeat(mac, 16)...)
}
