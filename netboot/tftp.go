package netboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/pin/tftp/v3"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"carte/lab"
	"carte/netboot/payload"
)

// TFTP carries iPXE and nothing else: a fixed map of two names, to be read. Neither EnableSinglePort nor SetAnticipate
// of the library is used: with the first, one packet that asks for a large block ends the process.

// A transfer waits tftpTimeout for each answer and asks tftpRetries times: 1 MB at 5 % loss takes 8 s, where the
// library's 5 s and 5 times fail. After tftpQuick times it waits longer, for firmware that is busy: 20 s in all.
const (
	tftpTimeout = 120 * time.Millisecond
	tftpRetries = 48
	tftpQuick   = 10
	tftpPause   = 400 * time.Millisecond

	maxTransfers     = 64
	maxTransfersEach = 4
)

var errTransfers = errors.New("too many transfers at once; ask again")

func openTFTP(self netip.Addr) (*net.UDPConn, error) {
	at := netip.AddrPortFrom(self, 69)
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, refusedPort(err, "udp", at.String(), "stop that, or let it serve another interface alone")
	}
	return c, nil
}

// transfers counts what is under way.
type transfers struct {
	mu    sync.Mutex
	total int
	each  map[netip.Addr]int
}

func (t *transfers) take(ip netip.Addr) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.total >= maxTransfers || t.each[ip] >= maxTransfersEach {
		return false
	}
	t.total++
	t.each[ip]++
	return true
}

func (t *transfers) give(ip netip.Addr) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.total--
	if t.each[ip]--; t.each[ip] == 0 {
		delete(t.each, ip)
	}
}

// errStopped unwinds a transfer whose server ends.
var errStopped = errors.New("the server ends")

// serveTFTP serves until the context ends, and closes the socket.
func (s *Server) serveTFTP(ctx context.Context) error {
	under := &transfers{each: map[netip.Addr]int{}}
	srv := tftp.NewServer(func(name string, to io.ReaderFrom) error { return s.transfer(ctx, under, name, to) }, nil)
	srv.SetTimeout(tftpTimeout)
	srv.SetRetries(tftpRetries)
	srv.SetBackoff(func(attempt int) time.Duration {
		if ctx.Err() != nil {
			// The library has no other way to end a transfer to a client that is gone; transfer catches it.
			panic(errStopped)
		}
		if attempt < tftpQuick {
			return 0
		}
		return tftpPause
	})
	s.tell(ctx, "tftp", "serving", true, s.tftp.LocalAddr().String())
	return together(ctx,
		func(context.Context) error { return srv.Serve(s.tftp) },
		func(ctx context.Context) error {
			<-ctx.Done()
			srv.Shutdown() // waits for the transfers
			return ctx.Err()
		})
}

// transfer answers one read request. An error goes to the client as one of TFTP's.
func (s *Server) transfer(ctx context.Context, under *transfers, name string, to io.ReaderFrom) (err error) {
	out, ok := to.(tftp.OutgoingTransfer)
	if !ok {
		return errors.New("carte cannot send")
	}
	peer := out.RemoteAddr()
	ip := peer.AddrPort().Addr().Unmap()
	defer func() {
		if p := recover(); p != nil && p != errStopped {
			s.cfg.Log.Error("tftp: transfer", "to", ip, "file", name, "panic", p)
		} else if p == nil {
			return
		}
		err = errStopped
	}()
	m, mac := s.machineAt(ctx, ip)
	b, ok := []byte(nil), name == payload.UndionlyFile || name == payload.IPXEFile
	if ok {
		b, ok = s.cfg.Payload.IPXE(name)
	}
	if !ok {
		if s.logged.fresh("tftp "+ip.String()+name, time.Minute) {
			s.cfg.Lab.Log(lab.Line{Machine: m, Source: "tftp", Text: fmt.Sprintf("%s asked for %q, which is not served", ip, name)})
		}
		return fmt.Errorf("no such file; there are %s and %s", payload.UndionlyFile, payload.IPXEFile)
	}
	if !under.take(ip) {
		return errTransfers
	}
	defer under.give(ip)
	if mac != "" {
		if _, _, err := s.cfg.Lab.SeenMachine(ctx, mac, lab.RungTFTP, ip.String(), false); err != nil && ctx.Err() == nil {
			s.cfg.Log.Warn("tftp: note a rung", "mac", mac, "err", err)
		}
	}
	start := time.Now()
	out.SetSize(int64(len(b)))
	n, err := to.ReadFrom(bytes.NewReader(b))
	text := fmt.Sprintf("%s %s in %.1f s", name, lab.Bytes(n), time.Since(start).Seconds())
	if err != nil && n == 0 && strings.Contains(err.Error(), "code=8") {
		text = "asked for the size of " + name // UEFI breaks off once it knows it, and asks again
	} else if err != nil {
		text = fmt.Sprintf("%s ended after %s: %v", name, lab.Bytes(n), err)
	}
	s.cfg.Lab.Log(lab.Line{Machine: m, Source: "tftp", Text: text})
	return err
}

// machineAt finds whose address it is: one that carte lent, or, beside another DHCP server, the card that the kernel
// has just learnt of.
func (s *Server) machineAt(ctx context.Context, ip netip.Addr) (machine int64, mac lab.MAC) {
	now, err := s.cfg.Lab.Watch(ctx, 0)
	if err != nil {
		return 0, ""
	}
	for _, a := range now.Addresses {
		if a.IP == ip.String() && s.dhcpMode() == "server" {
			mac = a.MAC
		}
	}
	if mac == "" {
		mac = neighbour(s.cfg.Interface, ip)
	}
	m, err := now.Find(string(mac))
	if mac == "" || err != nil {
		return 0, ""
	}
	return m.ID, mac
}

func neighbour(ifname string, ip netip.Addr) lab.MAC {
	ifi, err := net.InterfaceByName(ifname)
	if err != nil {
		return ""
	}
	all, err := netlink.NeighList(ifi.Index, unix.AF_INET)
	if err != nil {
		return ""
	}
	for _, n := range all {
		if got, _ := netip.AddrFromSlice(n.IP.To4()); got == ip {
			mac, err := lab.ParseMAC(n.HardwareAddr.String())
			if err == nil {
				return mac
			}
		}
	}
	return ""
}
