package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ownNetwork runs a test once more, with a network of its own that has a cable from the card "card" to a DHCP server at 10.9.0.1.
func ownNetwork(t *testing.T, f func(card netlink.Link)) {
	t.Helper()
	const env = "CARTE_TEST_NETWORK"
	if os.Getenv(env) != t.Name() {
		if os.Getuid() != 0 {
			t.Skip("it takes root to make a network namespace")
		}
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), env+"="+t.Name())
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("in its namespace: %v\n%s", err, out)
		}
		return
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a := netlink.NewLinkAttrs()
	a.Name = "card"
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: a, PeerName: "server"}))
	for _, name := range []string{"lo", "card", "server"} {
		l, err := netlink.LinkByName(name)
		must(err)
		must(netlink.LinkSetUp(l))
	}
	server, err := netlink.LinkByName("server")
	must(err)
	addr, err := netlink.ParseAddr("10.9.0.1/24")
	must(err)
	must(netlink.AddrAdd(server, addr))
	card, err := netlink.LinkByName("card")
	must(err)
	f(card)
}

// A lender is a DHCP server that does as it is told.
type lender struct {
	wire net.PacketConn // all that is broadcast
	own  net.PacketConn // what comes to its address

	mu           sync.Mutex
	ip           net.IP
	t1, t2, lent time.Duration
	deaf         string // asked, or all: what it does not hear
	nak          bool   // it takes back what it has lent

	changes int // of the above
	asked   chan heard
}

// heard is how a lender was asked: discover, select, unicast, broadcast; and after which change.
type heard struct {
	way     string
	changes int
}

func newLender(t *testing.T) *lender {
	t.Helper()
	wire, err := nclient4.NewRawUDPConn("server", nclient4.ServerPort)
	if err != nil {
		t.Fatal(err)
	}
	own, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IP{10, 9, 0, 1}, Port: nclient4.ServerPort})
	if err != nil {
		t.Fatal(err)
	}
	s := &lender{wire: wire, own: own, asked: make(chan heard, 1000)}
	s.lend(2, time.Second, time.Hour, 2*time.Hour)
	var both sync.WaitGroup
	for _, c := range []net.PacketConn{wire, own} {
		both.Go(func() { s.serve(c) })
	}
	t.Cleanup(func() { wire.Close(); own.Close(); both.Wait() })
	return s
}

func (s *lender) lend(host byte, t1, t2, lent time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ip, s.t1, s.t2, s.lent = net.IP{10, 9, 0, host}, t1, t2, lent
	s.deaf, s.nak = "", false
	s.changes++
}

func (s *lender) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.changes++
}

func (s *lender) serve(c net.PacketConn) {
	for b := make([]byte, 2000); ; {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		m, err := dhcpv4.FromBytes(b[:n])
		if err != nil || m.OpCode != dhcpv4.OpcodeBootRequest {
			continue
		}
		if answer := s.answer(m, c == s.own); answer != nil {
			to := &net.UDPAddr{IP: net.IPv4bcast, Port: nclient4.ClientPort}
			if c == s.own {
				to = from.(*net.UDPAddr)
			}
			c.WriteTo(answer.ToBytes(), to)
		}
	}
}

func (s *lender) answer(m *dhcpv4.DHCPv4, own bool) *dhcpv4.DHCPv4 {
	s.mu.Lock()
	defer s.mu.Unlock()
	what, kind := "discover", dhcpv4.MessageTypeOffer
	if m.MessageType() == dhcpv4.MessageTypeRequest {
		what, kind = "select", dhcpv4.MessageTypeAck
		if !m.ClientIPAddr.IsUnspecified() { // renewing or rebinding (RFC 2131, table 4)
			what = map[bool]string{true: "unicast", false: "broadcast"}[own]
			if m.Options.Has(dhcpv4.OptionServerIdentifier) || m.Options.Has(dhcpv4.OptionRequestedIPAddress) {
				what = "a renewal that names a server or an address"
			}
			if s.nak {
				kind = dhcpv4.MessageTypeNak
			}
		}
	}
	s.asked <- heard{what, s.changes}
	if s.deaf == what || s.deaf == "all" {
		return nil
	}
	r, err := dhcpv4.NewReplyFromRequest(m, dhcpv4.WithMessageType(kind), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IP{10, 9, 0, 1})))
	if err != nil || kind == dhcpv4.MessageTypeNak {
		return r
	}
	r.YourIPAddr = s.ip
	for code, d := range map[dhcpv4.OptionCode]time.Duration{dhcpv4.OptionIPAddressLeaseTime: s.lent, dhcpv4.OptionRenewTimeValue: s.t1, dhcpv4.OptionRebindingTimeValue: s.t2} {
		r.UpdateOption(dhcpv4.Option{Code: code, Value: dhcpv4.Duration(d)})
	}
	r.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(24, 32)))
	return r
}

// until waits until the server has been asked that way, since it was last changed.
func (s *lender) until(t *testing.T, way string) {
	t.Helper()
	s.mu.Lock()
	want := heard{way, s.changes}
	s.mu.Unlock()
	limit := time.After(time.Minute)
	for {
		select {
		case got := <-s.asked:
			if got == want {
				return
			}
			if strings.HasPrefix(got.way, "a renewal") {
				t.Errorf("it was asked by %s", got.way)
			}
		case <-limit:
			t.Fatalf("nobody asked it by %s", way)
		}
	}
}

// borrower is a card's network that tells what it says.
type borrower struct {
	*network
	mu   sync.Mutex
	said []string
	more chan struct{}
}

func borrow(t *testing.T, card netlink.Link, beside bool) *borrower {
	t.Helper()
	b := &borrower{more: make(chan struct{}, 1000)}
	first := &network{say: b.hear}
	if err := first.request(t.Context(), card.Attrs().Index); err != nil {
		t.Fatal(err)
	}
	b.network = first
	if beside { // as the shim has it
		var err error
		if b.network, err = takeOver(first.handOver(), b.hear); err != nil {
			t.Fatal(err)
		}
	}
	b.pause = 100 * time.Millisecond
	return b
}

func (b *borrower) hear(format string, args ...any) {
	b.mu.Lock()
	b.said = append(b.said, fmt.Sprintf(format, args...))
	b.mu.Unlock()
	b.more <- struct{}{}
}

func (b *borrower) says(t *testing.T, words string) {
	t.Helper()
	limit := time.After(time.Minute)
	for {
		b.mu.Lock()
		at := slices.IndexFunc(b.said, func(s string) bool { return strings.Contains(s, words) })
		if at >= 0 {
			b.said = b.said[at+1:]
		}
		b.mu.Unlock()
		if at >= 0 {
			return
		}
		select {
		case <-b.more:
		case <-limit:
			t.Fatalf("it never said %q, but %q", words, b.said)
		}
	}
}

// keeps keeps the lease until the test, or end, ends it.
func (b *borrower) keeps(t *testing.T) (end func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.keep(ctx) }()
	end = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { end() })
	return end
}

func addresses(t *testing.T, card netlink.Link) (all []string) {
	t.Helper()
	list, err := netlink.AddrList(card, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		all = append(all, a.IPNet.String())
	}
	return all
}

// A lease is renewed by the server that gave it, then by any; when it is over the address stays, and another is asked for.
func TestLeaseIsKept(t *testing.T) {
	ownNetwork(t, func(card netlink.Link) {
		s := newLender(t)
		b := borrow(t, card, true)
		end := b.keeps(t)
		for range 2 {
			s.until(t, "unicast")
		}
		s.change(func() { s.t2 = 2 * time.Second })
		s.until(t, "unicast")
		s.change(func() { s.deaf = "unicast" })
		s.until(t, "broadcast")
		b.says(t, "the address 10.9.0.2 is lent again")
		s.change(func() { s.deaf, s.lent = "", 3*time.Second })
		s.until(t, "unicast")
		s.change(func() { s.deaf = "all" })
		b.says(t, "10.9.0.2 was not renewed: its DHCP server 10.9.0.1 does not answer; it is tried again")
		b.says(t, "10.9.0.2 is lent no longer, and stays")
		if got := addresses(t, card); !slices.Equal(got, []string{"10.9.0.2/24"}) {
			t.Errorf("when it is over: %v", got)
		}
		s.lend(3, time.Second, time.Hour, 2*time.Hour)
		b.says(t, "the address is now 10.9.0.3 and no longer 10.9.0.2")
		s.until(t, "unicast")
		if got := addresses(t, card); !slices.Equal(got, []string{"10.9.0.3/24"}) {
			t.Errorf("then: %v", got)
		}
		s.change(func() { s.nak, s.ip = true, net.IP{10, 9, 0, 4} })
		b.says(t, "10.9.0.1 wants it back")
		b.says(t, "the address is now 10.9.0.4 and no longer 10.9.0.3")
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	})
}

// A system that has its network in its own hands is left alone.
func TestLeaseIsTaken(t *testing.T) {
	ownNetwork(t, func(card netlink.Link) {
		s := newLender(t)
		b := borrow(t, card, true)
		l := b.lease.Load()
		ours := &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{10, 9, 0, 2}, Mask: net.CIDRMask(24, 32)}}
		mortal := &netlink.Addr{IPNet: ours.IPNet, ValidLft: 100, PreferedLft: 100}
		other := &netlink.Addr{IPNet: &net.IPNet{IP: net.IP{10, 9, 0, 77}, Mask: net.CIDRMask(24, 32)}}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		taken := func(words string) {
			t.Helper()
			if err := l.taken(); words == "" && err != nil || words != "" && (err == nil || !strings.Contains(err.Error(), words)) {
				t.Errorf("it is taken: %v, want %q", err, words)
			}
		}
		taken("")
		must(netlink.AddrAdd(card, other))
		taken("the system has given its card 10.9.0.77")
		must(netlink.AddrDel(card, other))
		must(netlink.AddrReplace(card, mortal))
		taken("a time to live")
		must(netlink.AddrDel(card, mortal))
		taken("taken it off")
		must(netlink.AddrAdd(card, ours))
		taken("")
		client, err := net.ListenUDP("udp4", &net.UDPAddr{Port: nclient4.ClientPort})
		must(err)
		taken("the system runs a DHCP client")
		must(client.Close())
		taken("")

		end := b.keeps(t)
		s.until(t, "unicast")
		must(netlink.AddrAdd(card, other))
		b.says(t, "card: carte no longer renews 10.9.0.2: the system has given its card 10.9.0.77")
		if err := end(); !errors.Is(err, errTaken) {
			t.Errorf("it ended with %v", err)
		}
		must(netlink.LinkDel(card))
		taken("not here any more")
	})
}

func TestDues(t *testing.T) {
	opt := func(code dhcpv4.OptionCode, s int) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.Option{Code: code, Value: dhcpv4.Duration(time.Duration(s) * time.Second)})
	}
	for _, c := range []struct{ lent, t1, t2, renew, rebind, end int }{
		{3600, 0, 0, 1810, 3160, 3610}, {0, 0, 0, 1810, 3160, 3610}, {100, 20, 60, 30, 70, 110}, {80, 60, 20, 50, 80, 90}, {80, 20, 200, 50, 80, 90},
		{0xffffffff, 0, 0, 10 + 0xffffffff/2, 0, 10 + 0xffffffff},
	} {
		m, err := dhcpv4.New()
		if err != nil {
			t.Fatal(err)
		}
		for code, s := range map[dhcpv4.OptionCode]int{dhcpv4.OptionIPAddressLeaseTime: c.lent, dhcpv4.OptionRenewTimeValue: c.t1, dhcpv4.OptionRebindingTimeValue: c.t2} {
			if s > 0 {
				opt(code, s)(m)
			}
		}
		renew, rebind, end := (&lease{1, m, 10 * time.Second}).dues()
		if int(renew.Seconds()) != c.renew || c.rebind > 0 && int(rebind.Seconds()) != c.rebind || int(end.Seconds()) != c.end || rebind > end {
			t.Errorf("%+v: %v, %v, %v", c, renew, rebind, end)
		}
	}
}
