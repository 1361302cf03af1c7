package netboot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"carte/lab"
)

// askAgain is how often a wire that carte serves is asked for other servers. Those that speak by themselves are heard at
// once.
const askAgain = 10 * time.Second

// A wire is the sockets that belong to one network card and not to its address: they die without a word when the card is
// unplugged. HTTP and TFTP are bound to the address and outlive it.
type wire struct {
	ifi  *net.Interface
	ear  *ear
	dhcp *ipv4.PacketConn // nil when DHCP is off, like pxe
	pxe  *ipv4.PacketConn
	ra   *ipv6.PacketConn // nil where the computer has no IPv6
}

func (s *Server) openWire(ctx context.Context) (w *wire, err error) {
	ifi, self, err := labInterface(s.cfg.Interface)
	if err != nil {
		return nil, err
	}
	if self != s.self {
		return nil, fmt.Errorf("%s has the address %s now, carte was started on %s; start it again: %w", ifi.Name, self, s.self, lab.ErrRefused)
	}
	w = &wire{ifi: ifi}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if w.ra, err = openRA(ifi); err != nil {
		s.cfg.Log.Info("no router advertisements", "interface", ifi.Name, "err", err)
		s.tell(ctx, "ra", "off", true, "no IPv6 on this computer")
		w.ra = nil
	}
	if s.cfg.DHCP == "off" {
		return w, nil
	}
	if w.dhcp, err = openUDP(ctx, ifi.Name, 67); err != nil {
		return w, err
	}
	if w.pxe, err = openUDP(ctx, ifi.Name, 4011); err != nil {
		return w, err
	}
	if w.ear, err = openEar(ifi); err != nil {
		return w, fmt.Errorf("listen for other DHCP servers on %s: %v; run carte as root, or once: sudo setcap cap_net_bind_service,cap_net_raw+ep ./carte: %w", ifi.Name, err, lab.ErrRefused)
	}
	return w, nil
}

// Close closes what is open.
func (w *wire) Close() error {
	var all []error
	if w.ear != nil {
		all = append(all, w.ear.Close())
	}
	if w.dhcp != nil {
		all = append(all, w.dhcp.Close())
	}
	if w.pxe != nil {
		all = append(all, w.pxe.Close())
	}
	if w.ra != nil {
		all = append(all, w.ra.Close())
	}
	for i, err := range all {
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
			all[i] = nil // whoever served it closed it
		}
	}
	return errors.Join(all...)
}

// choose settles which part carte takes on a wire, after listening to it, or refuses.
func (s *Server) choose(ctx context.Context, w *wire, want string) error {
	if want == "off" || want == "proxy" {
		s.setMode(ctx, want, "")
		return nil
	}
	s.setMode(ctx, "listening", "for other DHCP servers")
	o, found, err := w.ear.probe(ctx, s.cfg.Probe)
	switch {
	case err != nil:
		return fmt.Errorf("listen for other DHCP servers on %s: %w", w.ifi.Name, err)
	case !found:
		s.setMode(ctx, "server", "")
	case want == "auto" && o.lends:
		s.setMode(ctx, "proxy", "beside the DHCP server "+o.String())
	default:
		return o.refusal(w.ifi.Name)
	}
	return nil
}

func (s *Server) dhcpMode() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mode
}

// setMode changes what DHCP does, from the next packet on, and says so.
func (s *Server) setMode(ctx context.Context, mode, note string) {
	s.mu.Lock()
	s.mode = mode
	s.mu.Unlock()
	state, ok := mode, true
	switch mode {
	case "server":
		state, note = "serving", fmt.Sprintf("%s on %s, lends %s to %s", s.self.Addr(), s.cfg.Interface, s.pool.First, s.pool.Last)
	case "proxy":
		note = or(note, fmt.Sprintf("%s on %s, another server gives the addresses", s.self.Addr(), s.cfg.Interface))
	case "yielded", "down":
		ok = false
	}
	s.tell(ctx, "dhcp", state, ok, note)
	s.cfg.Lab.Log(lab.Line{Source: "dhcp", Text: fmt.Sprintf("%s: %s %s", s.cfg.Interface, state, note)})
}

// serveWires serves the wire, and again each time that its card has been away.
func (s *Server) serveWires(ctx context.Context) error {
	w := s.first
	for {
		err := s.serveWire(ctx, w)
		closing := w.Close()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.cfg.Log.Warn("the wire is gone", "interface", s.cfg.Interface, "err", errors.Join(err, closing))
		s.setMode(ctx, "down", err.Error())
		if w, err = s.replug(ctx); err != nil {
			return err
		}
	}
}

// serveWire answers on one card until the context ends or the card is gone.
func (s *Server) serveWire(ctx context.Context, w *wire) error {
	all := []func(context.Context) error{func(ctx context.Context) error { return s.watch(ctx, w) }}
	if w.ra != nil {
		s.tell(ctx, "ra", "serving", true, s.cfg.Interface)
		all = append(all, func(ctx context.Context) error { return answerSolicitations(ctx, w.ra, w.ifi, s.cfg.Log) })
	}
	if w.dhcp != nil {
		d := newDHCP(s.cfg.Lab, s.cfg.Log, s.self.Addr(), s.self, s.pool, s.dhcpMode, func(mac lab.MAC) string {
			return s.hosts(lab.Machine{}, s.self.Addr()).script(mac)
		})
		all = append(all,
			func(ctx context.Context) error { return d.Run(ctx, w.dhcp, false) },
			func(ctx context.Context) error { return d.Run(ctx, w.pxe, true) },
			func(ctx context.Context) error { return s.listenForOthers(ctx, w.ear) })
	}
	return together(ctx, all...)
}

// listenForOthers hears what other servers say for as long as carte serves, and asks for them now and then.
func (s *Server) listenForOthers(ctx context.Context, e *ear) error {
	for {
		if s.dhcpMode() == "server" {
			if err := e.ask(); err != nil {
				return err
			}
		}
		for next := time.Now().Add(askAgain); ; {
			o, err := e.next(ctx, next)
			if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
				break
			}
			if err != nil {
				return err
			}
			s.hear(ctx, o)
		}
	}
}

// hear gives way to another server: the wire is its, whoever was there first.
func (s *Server) hear(ctx context.Context, o other) {
	switch mode := s.dhcpMode(); {
	case mode == "server" && s.cfg.DHCP == "auto" && o.lends:
		s.setMode(ctx, "proxy", "beside the DHCP server "+o.String())
	case mode == "server":
		s.setMode(ctx, "yielded", fmt.Sprintf("another DHCP server speaks on %s: %s; stop it, then start carte again", s.cfg.Interface, o))
	case mode == "proxy" && !o.lends && s.logged.fresh("boot server "+o.String(), time.Minute):
		s.cfg.Lab.Log(lab.Line{Source: "dhcp", Text: fmt.Sprintf("another network boot server speaks on %s: %s; machines follow whoever is faster", s.cfg.Interface, o)})
	}
}

// usable says whether the card of an open wire is still the one of that name, with its address and no default route.
func (s *Server) usable(w *wire) error {
	ifi, self, err := labInterface(s.cfg.Interface)
	switch {
	case err != nil:
		return err
	case ifi.Index != w.ifi.Index:
		return fmt.Errorf("%s is another card now", s.cfg.Interface)
	case self != s.self:
		return fmt.Errorf("%s has the address %s now, no longer %s", s.cfg.Interface, self, s.self)
	}
	return nil
}

// watch returns an error when the wire's card is gone, down, or no longer one that may be served.
func (s *Server) watch(ctx context.Context, w *wire) error {
	return onChange(ctx, func() (bool, error) {
		err := s.usable(w)
		return err != nil, err
	})
}

// replug waits until the card is back and open again.
func (s *Server) replug(ctx context.Context) (w *wire, err error) {
	err = onChange(ctx, func() (bool, error) {
		w, err = s.openWire(ctx)
		if err == nil {
			return true, nil
		}
		if s.logged.fresh("replug: "+err.Error(), time.Minute) {
			s.cfg.Log.Info("wait for the wire", "err", err)
			s.tell(ctx, "dhcp", "down", false, err.Error())
		}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	// It may be plugged in elsewhere now.
	if err := s.choose(ctx, w, s.cfg.DHCP); err != nil {
		if ctx.Err() != nil {
			return nil, errors.Join(ctx.Err(), w.Close())
		}
		s.setMode(ctx, "yielded", err.Error())
	}
	return w, nil
}

// onChange calls done at once, after every change of a link, an address or a route, and every two seconds in case one was
// missed, until it says so or fails.
func onChange(ctx context.Context, done func() (bool, error)) error {
	news, err := openNews()
	if err != nil {
		return fmt.Errorf("watch the network: %w", err)
	}
	defer news.Close()
	defer context.AfterFunc(ctx, func() { news.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 64<<10)
	for ctx.Err() == nil {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if err := news.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return fmt.Errorf("watch the network: %w", err)
		}
		if ctx.Err() != nil {
			break // the deadline above may have come after the one that ends the wait
		}
		// That something changed is all that counts, and what was lost is looked at again anyway.
		_, _ = news.Read(buf)
	}
	return ctx.Err()
}

// openNews opens the kernel's account of changes (rtnetlink(7)).
func openNews() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "rtnetlink")
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		return nil, errors.Join(os.NewSyscallError("bind", err), f.Close())
	}
	return f, nil
}
