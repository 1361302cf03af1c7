package netboot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/ipv4"

	"carte/lab"
)

// dhcpWorkers is how many packets are worked on at once. Each waits for the lab to be written down.
const dhcpWorkers = 4

// packetTime is how long a client's packet is worth an answer; then it has asked again.
const packetTime = 4 * time.Second

// A dhcp answers the packets of one wire. What the answers are is in dhcp_answer.go and proxy.go.
type dhcp struct {
	lab    *lab.Lab
	log    *slog.Logger
	self   netip.Addr
	wire   netip.Prefix
	pool   lab.Pool
	mode   func() string // server, proxy, or anything else for silence
	script func(lab.MAC) string

	said sayings

	mu       sync.Mutex
	declined map[netip.Addr]time.Time // until when an address is not lent, because somebody else has it
	locals   map[lab.MAC]local        // who was last told to boot its own disk
}

// A local is a decision that holds for one round of packets, from DISCOVER to what a ROM asks after it.
type local struct {
	round dhcpv4.TransactionID
	at    time.Time
}

func newDHCP(l *lab.Lab, log *slog.Logger, self netip.Addr, wire netip.Prefix, pool lab.Pool, mode func() string, script func(lab.MAC) string) *dhcp {
	d := &dhcp{lab: l, log: log, self: self, wire: wire, pool: pool, mode: mode, script: script,
		declined: map[netip.Addr]time.Time{}, locals: map[lab.MAC]local{}}
	d.pool.Not = d.occupied
	return d
}

// Run answers what comes to a socket until the context ends. It closes the socket.
func (d *dhcp) Run(ctx context.Context, c *ipv4.PacketConn, pxe bool) error {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	work := make([]func(context.Context) error, dhcpWorkers)
	for i := range work {
		work[i] = func(ctx context.Context) error { return d.serve(ctx, c, pxe) }
	}
	return together(ctx, work...)
}

func (d *dhcp) serve(ctx context.Context, c *ipv4.PacketConn, pxe bool) error {
	buf := make([]byte, 2048)
	for {
		n, _, from, err := c.ReadFrom(buf)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			d.log.Debug("dhcp: read", "err", err)
			continue
		}
		sender, ok := from.(*net.UDPAddr)
		if !ok {
			continue
		}
		out, dest := d.safely(ctx, buf[:n], sender.AddrPort(), pxe)
		if out == nil {
			continue
		}
		_, err = c.WriteTo(out, &ipv4.ControlMessage{Src: d.self.AsSlice()}, net.UDPAddrFromAddrPort(dest))
		if err != nil && ctx.Err() == nil {
			d.log.Warn("dhcp: reply", "to", dest, "err", err)
		}
	}
}

// safely is handle for packets of whoever is on the wire: one that trips carte up costs its own answer only.
func (d *dhcp) safely(ctx context.Context, b []byte, from netip.AddrPort, pxe bool) (out []byte, dest netip.AddrPort) {
	defer func() {
		if p := recover(); p != nil {
			d.log.Error("dhcp: packet", "from", from, "panic", p, "packet", fmt.Sprintf("%x", b))
			out = nil
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, packetTime)
	defer cancel()
	return d.handle(ctx, b, from, pxe)
}

// handle looks up what the rules need, asks them, and writes down what follows. out is nil when silence is right.
func (d *dhcp) handle(ctx context.Context, b []byte, from netip.AddrPort, pxe bool) (out []byte, dest netip.AddrPort) {
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	mode := d.mode()
	if mode != "server" && mode != "proxy" {
		return nil, dest
	}
	a, err := readAsk(b)
	if err != nil {
		d.log.Debug("dhcp: not a request", "from", from, "err", err)
		return nil, dest
	}
	v := view{self: d.self, wire: d.wire, proxy: mode == "proxy", pxe: pxe, script: d.script(a.mac)}
	if a.probe {
		if r, err := answerProbe(a, v); err == nil && r != nil {
			return r.ToBytes(), to(a, v, r, from)
		}
		return nil, dest
	}
	m, err := d.meet(ctx, a, pxe)
	if err != nil {
		d.complain(a, m, err)
		return nil, dest
	}
	if v.standing = m.Standing; !a.served(v) {
		return nil, dest
	}
	r, err := d.decide(ctx, a, &v)
	if err != nil {
		d.complain(a, m, err)
		return nil, dest
	}
	d.note(ctx, a, v, m, r)
	if r == nil {
		return nil, dest
	}
	return r.ToBytes(), to(a, v, r, from)
}

// meet returns what the lab knows of the client's machine: nothing for a stranger that does not ask for a boot, so that
// the neighbours' laptops are not even remembered.
func (d *dhcp) meet(ctx context.Context, a ask, pxe bool) (lab.Machine, error) {
	s, err := d.lab.Watch(ctx, 0)
	if err != nil {
		return lab.Machine{}, err
	}
	m, err := s.Find(string(a.mac))
	first := a.boots() && a.kind == dhcpv4.MessageTypeDiscover && !pxe
	switch {
	case err != nil && !first:
		return lab.Machine{}, nil
	case err == nil && m.Standing == lab.Ignored:
		return m, nil
	case err == nil && m.Standing == lab.Unknown && !a.boots():
		return m, nil
	}
	m, _, err = d.lab.SeenMachine(ctx, a.mac, lab.RungDHCP, "", first)
	return m, err
}

func (d *dhcp) decide(ctx context.Context, a ask, v *view) (*dhcpv4.DHCPv4, error) {
	v.local = d.local(ctx, a, v.standing)
	if v.time = a.lends(*v); v.time > 0 {
		p := d.pool
		p.Lease = v.time
		have, err := d.lab.Lease(ctx, a.mac, p)
		if err != nil {
			return nil, err
		}
		if v.lease, err = netip.ParseAddr(have.IP); err != nil {
			return nil, err
		}
		// What is written down may have less than that left. Nobody else gets an address in the minute after its end.
		v.time = max(v.time/2, min(v.time, time.Until(have.Until).Round(time.Minute)))
	}
	return answer(a, *v)
}

// local decides whether UEFI firmware is to boot its own disk. It is told before it loads iPXE, because there is no way
// back: the iPXE that carte hands out restarts the machine when its script exits, and cannot start a local disk under
// UEFI. On a BIOS machine it can.
func (d *dhcp) local(ctx context.Context, a ask, standing lab.Standing) bool {
	if a.client != clientFirmware || a.arch == 0 || standing != lab.Adopted {
		return false
	}
	d.mu.Lock()
	last, ok := d.locals[a.mac]
	d.mu.Unlock()
	if ok && time.Since(last.at) < time.Minute && (last.round == a.packet.TransactionID || a.kind != dhcpv4.MessageTypeDiscover) {
		return true
	}
	if a.kind != dhcpv4.MessageTypeDiscover || d.lab.Peek(a.mac).Do != lab.ScriptLocal {
		d.mu.Lock()
		delete(d.locals, a.mac)
		d.mu.Unlock()
		return false
	}
	s, err := d.lab.Script(ctx, a.mac, "")
	if err != nil || s.Do != lab.ScriptLocal {
		return false
	}
	d.lab.Log(lab.Line{Machine: s.Machine.ID, Source: "dhcp", Text: "boots its own disk: " + s.Why})
	d.mu.Lock()
	d.locals[a.mac] = local{a.packet.TransactionID, time.Now()}
	d.mu.Unlock()
	return true
}

// note writes down what an answered packet means.
func (d *dhcp) note(ctx context.Context, a ask, v view, m lab.Machine, r *dhcpv4.DHCPv4) {
	asked := addr(a.packet.RequestedIPAddress())
	switch {
	case r == nil && a.kind == dhcpv4.MessageTypeDecline && asked.IsValid():
		d.mu.Lock()
		if len(d.declined) < 256 {
			d.declined[asked] = time.Now().Add(10 * time.Minute)
		}
		d.mu.Unlock()
		d.lab.Log(lab.Line{Machine: m.ID, Source: "dhcp", Text: fmt.Sprintf("DECLINE: another machine has %s; it gets another address", asked)})
		return
	case r == nil && a.kind == dhcpv4.MessageTypeRelease:
		// The address stays the machine's: it gets the same one when it comes back.
		d.lab.Log(lab.Line{Machine: m.ID, Source: "dhcp", Text: "RELEASE"})
		return
	case r == nil:
		return
	}
	got := addr(r.YourIPAddr)
	if got.IsValid() && r.MessageType() == dhcpv4.MessageTypeAck {
		if _, _, err := d.lab.SeenMachine(ctx, a.mac, lab.RungDHCP, got.String(), false); err != nil {
			d.log.Warn("dhcp: note an address", "mac", a.mac, "err", err)
		}
	}
	d.lab.Log(lab.Line{Machine: m.ID, Source: "dhcp", Text: exchange(a, v, r)})
}

// exchange is a packet and its answer in words: DISCOVER -> OFFER 10.77.0.33 arch 7 (EFI x64)
func exchange(a ask, v view, r *dhcpv4.DHCPv4) string {
	text := fmt.Sprintf("%s -> %s", a.kind, r.MessageType())
	if v.pxe {
		text = "port 4011: " + text
	} else if v.proxy {
		text = "proxy: " + text
	}
	if got := addr(r.YourIPAddr); got.IsValid() {
		text += " " + got.String()
	}
	switch a.client {
	case clientIPXE:
		text += " iPXE"
	case clientFirmware:
		text += " " + a.arch.String()
	}
	switch {
	case r.BootFileName != "":
		text += " boots " + r.BootFileName
	case v.local:
		text += " boots its own disk"
	}
	return text
}

// complain logs why a client got no answer, once in a while.
func (d *dhcp) complain(a ask, m lab.Machine, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	text := fmt.Sprintf("%s from %s: no answer: %v", a.kind, a.mac, err)
	if d.said.fresh(text, 30*time.Second) {
		d.lab.Log(lab.Line{Machine: m.ID, Source: "dhcp", Text: text})
	}
}

// occupied says that an address is not carte's to lend.
func (d *dhcp) occupied(ip netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return ip == d.self || time.Now().Before(d.declined[ip])
}
