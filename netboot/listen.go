package netboot

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"

	"carte/lab"
)

// How many connections are open at most. A machine needs a handful; the loopback, where virtual machines come from, is
// held to the sum alone.
const (
	maxConns     = 1024
	maxConnsEach = 32
)

// openTCP adds a listener to those there are.
func openTCP(to []net.Listener, addr, flag string) ([]net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return to, refusedPort(err, "tcp", addr, "stop that, or choose another with "+flag)
	}
	return append(to, &limited{Listener: l, open: map[netip.Addr]int{}}), nil
}

// openUDP opens a port on one interface for packets to any address, broadcasts among them. It shares the port with
// nobody: two DHCP servers that set SO_REUSEPORT both start, and each gets some of the packets.
func openUDP(ctx context.Context, ifname string, port int) (*ipv4.PacketConn, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		if e := c.Control(func(fd uintptr) {
			err = unix.BindToDevice(int(fd), ifname)
			if err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
			}
		}); e != nil {
			return e
		}
		return err
	}}
	addr := fmt.Sprintf("0.0.0.0:%d", port)
	c, err := lc.ListenPacket(ctx, "udp4", addr)
	if err != nil {
		return nil, refusedPort(err, "udp", addr, "stop that, only one DHCP server fits on an interface")
	}
	return ipv4.NewPacketConn(c), nil
}

// refusedPort says why a port could not be opened, and what to do.
func refusedPort(err error, proto, addr, fix string) error {
	host, port, _ := net.SplitHostPort(addr)
	name := strings.ToUpper(proto) + " port " + port
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return fmt.Errorf("%s is taken by %s; %s: %w", name, holder(proto, port), fix, lab.ErrBusy)
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s may not be opened; run carte as root, or once: sudo setcap cap_net_bind_service,cap_net_raw+ep ./carte: %w", name, lab.ErrRefused)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return fmt.Errorf("%s: %s is no address of this computer: %w", name, host, lab.ErrInvalid)
	}
	return fmt.Errorf("%s: %v: %w", name, err, lab.ErrInvalid)
}

// holder names the process that has a port: dnsmasq (process 1234). Of processes that we may not look into it can only
// say that there is one.
func holder(proto, port string) string {
	n, err := strconv.Atoi(port)
	if err != nil {
		return "another process"
	}
	sockets := map[string]bool{}
	for _, table := range []string{proto, proto + "6"} {
		for _, inode := range socketsOn("/proc/net/"+table, n) {
			sockets["socket:["+inode+"]"] = true
		}
	}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the only error is a bad pattern
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && sockets[to] {
			pid := strings.Split(link, "/")[2]
			comm, _ := os.ReadFile("/proc/" + pid + "/comm") // it may have ended
			return fmt.Sprintf("%s (process %s)", or(strings.TrimSpace(string(comm)), "a process"), pid)
		}
	}
	return "another process"
}

// socketsOn returns the inodes of a table's sockets that have the port as theirs (proc(5), /proc/net/tcp). TCP
// connections that we merely opened ourselves have it too; a listener is state 0A, a UDP socket 07.
func socketsOn(path string, port int) (inodes []string) {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	want := fmt.Sprintf(":%04X", port)
	for lines := bufio.NewScanner(f); lines.Scan(); {
		w := strings.Fields(lines.Text())
		if len(w) > 9 && strings.HasSuffix(w[1], want) && (w[3] == "0A" || w[3] == "07") {
			inodes = append(inodes, w[9])
		}
	}
	return inodes
}

// limited closes connections beyond what one address, and all together, may have open.
type limited struct {
	net.Listener
	mu    sync.Mutex
	total int
	open  map[netip.Addr]int
}

func (l *limited) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if ip := addrOf(c.RemoteAddr()); l.take(ip) {
			return &counted{Conn: c, give: sync.OnceFunc(func() { l.give(ip) })}, nil
		}
		c.Close()
	}
}

func (l *limited) take(ip netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxConns || l.open[ip] >= maxConnsEach && !ip.IsLoopback() {
		return false
	}
	l.total++
	l.open[ip]++
	return true
}

func (l *limited) give(ip netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.open[ip]--; l.open[ip] == 0 {
		delete(l.open, ip)
	}
}

type counted struct {
	net.Conn
	give func()
}

func (c *counted) Close() error {
	c.give()
	return c.Conn.Close()
}

// addrOf is the IP of a TCP or UDP address; the zero Addr for anything else.
func addrOf(a net.Addr) netip.Addr {
	if a == nil {
		return netip.Addr{}
	}
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap().WithZone("")
}
