// Package netboot is everything that a machine without an operating system talks to: DHCP and ProxyDHCP, TFTP for iPXE
// alone, HTTP for boot scripts, kernel and initramfs, router advertisements, and the API of the agent over TLS.
//
//	wire       one lab network with carte's interface on it; sockets that follow a re-plugged card
//	script     what iPXE runs; decided by the lab from what is written down
//	agent      carte's own program on the machine; it claims its boot with a token and has a key from then on
//
// Packets are answered by pure functions (dhcp_answer.go, proxy.go, script.go); loops around sockets look up what those
// need and write down what follows. The package refuses to decide what a machine boots and which disk is written: it
// asks the lab. It knows no people: there is no route here by which a person could do anything, and no header, address
// or parameter gives a right.
//
// Everything before the agent is as weak as PXE: whoever is on the wire can ask for any machine's script, and with it
// for its token. What the agent does is protected by TLS with a pinned key and by that token being good for one claim.
package netboot

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// ChunkSource is where images come from.
type ChunkSource interface {
	// Manifest returns the manifest with that root, lab.ErrNotFound when there is none.
	Manifest(root chunk.ID) (chunk.Manifest, error)
	// Stored returns a chunk in its stored form. It need not be checked: the agent does that.
	Stored(id chunk.ID) ([]byte, error)
}

// Payload is what machines are given to boot. Kernel and Initramfs are called once, before the first machine asks.
type Payload struct {
	Kernel    func() ([]byte, error)
	Initramfs func() ([]byte, error)
	IPXE      func(name string) ([]byte, bool)
}

// Config is what a server is made with. Lab, Chunks, Payload, Log and Cert are needed.
type Config struct {
	Lab     *lab.Lab
	Chunks  ChunkSource
	Sink    ChunkSink    // nil: captures are refused
	Kernels KernelSource // nil: systems with a kernel of their own are refused
	Home    HomeSink     // nil: results are refused, and changes
	Payload Payload
	// Mend stores what next hands over, as far as it is sound and lacking, until that returns io.EOF. Nil: nothing is taken.
	Mend func(next func() (chunk.ID, []byte, error)) error
	Log  *slog.Logger
	Cert tls.Certificate // of the agents' API; its PinOf goes on their command lines, so it should outlive a restart

	// Stages is a folder for what agents send for the next start of their machines: at most 64 files of lab.MaxStage bytes.
	// What is in it need not survive, but should. Empty: that is refused.
	Stages string

	Interface string   // the wire to serve; empty: no DHCP, no TFTP, no router advertisements
	DHCP      string   // server; proxy: another server gives the addresses; auto (also when empty): server unless another is heard; off
	Pool      lab.Pool // addresses to lend; zero: the upper half of the wire's network

	// Listen and ListenAPI are addresses with ports, for HTTP and the agents' API. Empty: ports 80 and 4443 on the
	// interface's address, or any free port on 127.0.0.1 without an interface.
	Listen, ListenAPI string
	// UserHost is the address by which a virtual machine on QEMU's own network reaches this computer's loopback.
	// Empty: 10.0.2.2.
	UserHost string
	// Probe is how long the wire is listened to before addresses are given. Zero: 6 s; dnsmasq takes 3 s to answer.
	Probe time.Duration
}

const (
	portHTTP = "80"
	portAPI  = "4443"
)

// A Server serves one wire, or none, and the virtual machines of this computer. Listen, then Run, once each.
type Server struct {
	cfg   Config
	pin   string
	roots *roots
	hot   *hot

	kernels *kernels
	stages  stages

	files  files
	self   netip.Prefix // on the interface; zero without one
	pool   lab.Pool
	http   []net.Listener
	api    []net.Listener
	tftp   *net.UDPConn
	first  *wire // opened by Listen, for Run
	logged sayings

	mu   sync.Mutex
	mode string // of DHCP just now: server, proxy, off, or yielded
}

// New checks the configuration. It opens nothing.
func New(c Config) (*Server, error) {
	if c.Lab == nil || c.Chunks == nil || c.Log == nil || c.Payload.Kernel == nil || c.Payload.Initramfs == nil || c.Payload.IPXE == nil {
		panic("BUG: netboot.New without lab, chunks, payload or log")
	}
	if len(c.Cert.Certificate) == 0 {
		return nil, fmt.Errorf("the agents' API has no certificate: %w", lab.ErrInvalid)
	}
	switch c.DHCP {
	case "":
		c.DHCP = "auto"
	case "server", "proxy", "auto", "off":
	default:
		return nil, fmt.Errorf("dhcp = %q is none of server, proxy, auto, off: %w", c.DHCP, lab.ErrInvalid)
	}
	if c.UserHost == "" {
		c.UserHost = "10.0.2.2"
	}
	if c.Probe == 0 {
		c.Probe = 6 * time.Second
	}
	s := &Server{cfg: c, pin: PinOf(c.Cert), mode: "off"}
	s.roots, s.hot, s.kernels = newRoots(c.Chunks), newHot(c.Chunks), newKernels(c.Kernels)
	return s, nil
}

// Listen opens every socket and listens to the wire for other DHCP servers, or refuses in one sentence; then nothing
// stays open.
func (s *Server) Listen(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := s.files.load(s.cfg.Payload); err != nil {
		s.cfg.Log.Warn("machines cannot be booted", "err", err)
	}
	if err := s.stages.open(s.cfg.Stages); err != nil {
		return err
	}
	host := "127.0.0.1"
	if s.cfg.Interface != "" {
		if err := s.plug(); err != nil {
			return err
		}
		host = s.self.Addr().String()
	}
	for _, l := range s.wanted(host) {
		if *l.to, err = openTCP(*l.to, l.addr, l.flag); err != nil {
			return err
		}
	}
	if s.cfg.Interface == "" {
		return nil
	}
	if s.tftp, err = openTFTP(s.self.Addr()); err != nil {
		return err
	}
	if s.first, err = s.openWire(ctx); err != nil {
		return err
	}
	return s.choose(ctx, s.first, s.cfg.DHCP)
}

// plug reads the interface and settles which addresses are lent.
func (s *Server) plug() (err error) {
	if _, s.self, err = labInterface(s.cfg.Interface); err != nil {
		return err
	}
	if s.pool = s.cfg.Pool; !s.pool.First.IsValid() {
		s.pool = poolOf(s.self)
	}
	return checkPool(s.pool, s.self)
}

type listener struct {
	to   *[]net.Listener
	addr string
	flag string // of the command line, to name another
}

// wanted lists what to listen on. With an interface the loopback is served as well: virtual machines on QEMU's own
// network come from there.
func (s *Server) wanted(host string) []listener {
	standard := func(port string) string {
		if s.cfg.Interface == "" {
			port = "0"
		}
		return net.JoinHostPort(host, port)
	}
	all := []listener{
		{&s.http, or(s.cfg.Listen, standard(portHTTP)), "--listen"},
		{&s.api, or(s.cfg.ListenAPI, standard(portAPI)), "--listen-api"},
	}
	for _, l := range all[:2] {
		h, _, err := net.SplitHostPort(l.addr)
		if ip, _ := netip.ParseAddr(h); err == nil && h != "" && !ip.IsUnspecified() && !ip.IsLoopback() {
			all = append(all, listener{l.to, "127.0.0.1:0", l.flag})
		}
	}
	return all
}

// Run serves until the context ends, and returns its error then. A server that Listen has not opened has nothing to do.
func (s *Server) Run(ctx context.Context) error {
	all := []func(context.Context) error{s.tidy}
	for _, l := range s.http {
		all = append(all, func(ctx context.Context) error { return s.serveHTTP(ctx, l) })
	}
	for _, l := range s.api {
		all = append(all, func(ctx context.Context) error { return s.serveAPI(ctx, l) })
	}
	s.tell(ctx, "http", "serving", true, joined(s.http))
	if s.cfg.Interface != "" {
		all = append(all, s.serveTFTP, s.serveWires)
	}
	return together(ctx, all...)
}

// close closes what Listen opened, for a Listen that failed.
func (s *Server) close() error {
	var all error
	for _, l := range append(s.http, s.api...) {
		all = errors.Join(all, l.Close())
	}
	if s.tftp != nil {
		all = errors.Join(all, s.tftp.Close())
	}
	if s.first != nil {
		all = errors.Join(all, s.first.Close())
	}
	s.http, s.api, s.tftp, s.first = nil, nil, nil, nil
	return all
}

// Addrs returns where HTTP and where the agents' API is served, the wire's address first.
func (s *Server) Addrs() (http, api []net.Addr) {
	for _, l := range s.http {
		http = append(http, l.Addr())
	}
	for _, l := range s.api {
		api = append(api, l.Addr())
	}
	return http, api
}

// ScriptURL is where a machine finds its boot script, as that machine must say it; for a virtual one what its QEMU is
// given as boot file. It is empty before Listen.
func (s *Server) ScriptURL(m lab.Machine) string {
	if len(s.http) == 0 || len(m.MACs) == 0 {
		return ""
	}
	return s.hosts(m, s.self.Addr()).script(m.MACs[0])
}

// tell notes the state of one of the services, for the status line.
func (s *Server) tell(ctx context.Context, name, state string, ok bool, note string) {
	if err := s.cfg.Lab.Tell(ctx, lab.Service{Name: name, State: state, OK: ok, Note: note}); err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn("note the state of a service", "service", name, "err", err)
	}
}

func joined(all []net.Listener) string {
	var text []string
	for _, l := range all {
		text = append(text, l.Addr().String())
	}
	return strings.Join(text, ", ")
}

func or(v, instead string) string {
	if v == "" {
		return instead
	}
	return v
}
