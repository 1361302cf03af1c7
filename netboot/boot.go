package netboot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"carte/lab"
)

// How long HTTP waits. A request is small; an answer may be large, so only its standing still is limited.
const (
	headerTime = 10 * time.Second
	bodyTime   = 60 * time.Second
	stillTime  = 60 * time.Second
	idleTime   = 2 * time.Minute
	maxHeader  = 8 << 10
)

// files are what machines are given to boot, in memory.
type files struct {
	kernel, initrd []byte
	missing        error // why there are none
}

func (f *files) load(p Payload) error {
	var err error
	if f.kernel, err = p.Kernel(); err == nil {
		f.initrd, err = p.Initramfs()
	}
	f.missing = err
	return err
}

// serveHTTP serves what iPXE asks for on one listener, which it closes.
func (s *Server) serveHTTP(ctx context.Context, l net.Listener) error {
	return serve(ctx, l, s.server("http", http.HandlerFunc(s.boot)), (*http.Server).Serve)
}

// server is an HTTP server that nobody can tire out.
func (s *Server) server(name string, h http.Handler) *http.Server {
	return &http.Server{
		Handler:           s.guarded(name, h),
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       bodyTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.With("server", name).Handler(), slog.LevelDebug),
	}
}

// serve runs an HTTP server until the context ends. What is under way then has half a second: machines ask again.
func serve(ctx context.Context, l net.Listener, h *http.Server, run func(*http.Server, net.Listener) error) error {
	return together(ctx,
		func(context.Context) error { return run(h, l) },
		func(ctx context.Context) error {
			<-ctx.Done()
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 500*time.Millisecond)
			defer cancel()
			if h.Shutdown(last) != nil {
				return h.Close()
			}
			return ctx.Err()
		})
}

// guarded answers a panic with 500 and keeps answers moving.
func (s *Server) guarded(name string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := &moving{ResponseWriter: w, c: http.NewResponseController(w)}
		defer func() {
			p := recover()
			if p == http.ErrAbortHandler {
				panic(p) // the connection is cut, on purpose
			}
			if p != nil {
				s.cfg.Log.Error(name+": request", "method", r.Method, "path", r.URL.Path, "panic", p)
				http.Error(out, "carte failed; its log says why", http.StatusInternalServerError)
			}
		}()
		out.extend()
		h.ServeHTTP(out, r)
	})
}

// moving gives every write its own deadline.
type moving struct {
	http.ResponseWriter
	c *http.ResponseController
}

func (m *moving) extend() {
	// A writer without deadlines is a test's.
	_ = m.c.SetWriteDeadline(time.Now().Add(stillTime))
}

func (m *moving) Write(b []byte) (int, error) {
	m.extend()
	return m.ResponseWriter.Write(b)
}

func (m *moving) Unwrap() http.ResponseWriter { return m.ResponseWriter }

// boot is the whole of what plain HTTP offers. Paths are compared as they come, so that none can climb anywhere.
func (s *Server) boot(w http.ResponseWriter, r *http.Request) {
	name, isScript := strings.CutPrefix(r.URL.Path, "/boot/")
	mac, err := lab.ParseMAC(strings.TrimSuffix(name, ".ipxe"))
	isScript = isScript && strings.HasSuffix(name, ".ipxe") && err == nil
	other := slices.Contains([]string{"/boot.ipxe", "/kernel", "/initrd", "/system/kernel", "/system/initrd"}, r.URL.Path)
	switch {
	case !isScript && !other:
		http.Error(w, "carte serves boot scripts here, and nothing else", http.StatusNotFound)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
	case isScript:
		s.serveScript(w, r, mac)
	case r.URL.Path == "/boot.ipxe":
		sendScript(w, whoScript)
	case r.URL.Path == "/system/kernel":
		s.serveSystem(w, r, lab.RungKernel)
	case r.URL.Path == "/system/initrd":
		s.serveSystem(w, r, lab.RungInitrd)
	case r.URL.Path == "/kernel":
		s.serveFile(w, r, s.files.kernel, lab.RungKernel)
	default:
		s.serveFile(w, r, s.files.initrd, lab.RungInitrd)
	}
}

func (s *Server) serveScript(w http.ResponseWriter, r *http.Request, mac lab.MAC) {
	ip := remote(r)
	shown := ip.String()
	if ip.IsLoopback() {
		shown = "" // a virtual machine's address is QEMU's affair
	}
	local := localOf(r)
	words := func(d lab.Script) own { return ownWords(d, mac, s.hosts(d.Machine, local), s.pin) }
	look := r.Method == http.MethodHead
	var err error
	if !look && r.URL.Query().Get("failed") != "" {
		err = s.notStarted(r.Context(), mac)
	}
	var d lab.Script
	var o own
	if err == nil {
		d, o, err = s.decide(r.Context(), mac, shown, look, words)
	}
	if err != nil {
		s.cfg.Log.Error("http: script", "mac", mac, "err", err)
		http.Error(w, "carte could not decide; its log says why", http.StatusInternalServerError)
		return
	}
	s.keepLease(r.Context(), d.Machine, mac, ip)
	if text := fmt.Sprintf("script: %s: %s", d.Do, d.Why); s.logged.fresh(string(mac)+text, time.Minute) || d.Do == lab.ScriptAgent || d.Do == lab.ScriptSystem {
		s.cfg.Lab.Log(lab.Line{Machine: d.Machine.ID, Source: "http", Text: text})
	}
	sendScript(w, script(d, mac, s.hosts(d.Machine, local), s.pin, o))
}

// decide asks the lab. Without a kernel every machine waits, and its screen says so. Looking (HEAD) has no consequences.
func (s *Server) decide(ctx context.Context, mac lab.MAC, ip string, look bool, words func(lab.Script) own) (lab.Script, own, error) {
	if look {
		d := s.cfg.Lab.Peek(mac)
		return d, words(d), nil
	}
	if s.files.missing != nil {
		m, _, err := s.cfg.Lab.SeenMachine(ctx, mac, lab.RungDHCP, ip, true)
		return lab.Script{Do: lab.ScriptHold, Machine: m, Why: s.files.missing.Error()}, own{}, err
	}
	return s.system(ctx, func() (lab.Script, error) { return s.cfg.Lab.Script(ctx, mac, ip) }, words)
}

// keepLease renews a waiting stranger's address: iPXE does not.
func (s *Server) keepLease(ctx context.Context, m lab.Machine, mac lab.MAC, ip netip.Addr) {
	if m.Standing != lab.Unknown || s.dhcpMode() != "server" {
		return
	}
	now, err := s.cfg.Lab.Watch(ctx, 0)
	if err != nil || now.Addresses[mac].IP != ip.String() {
		return
	}
	p := s.pool
	p.Lease = leaseStranger
	if _, err := s.cfg.Lab.Lease(ctx, mac, p); err != nil && ctx.Err() == nil {
		s.cfg.Log.Warn("http: keep a lease", "mac", mac, "err", err)
	}
}

func sendScript(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	// The machine asks again when this does not reach it.
	_, _ = io.WriteString(w, text)
}

// serveFile sends kernel or initramfs. ?m= names the machine whose boot climbs a rung by it, and gives no right.
func (s *Server) serveFile(w http.ResponseWriter, r *http.Request, b []byte, rung lab.Rung) {
	if s.files.missing != nil {
		http.Error(w, s.files.missing.Error(), http.StatusServiceUnavailable)
		return
	}
	m, known := s.climber(r)
	if known {
		if _, _, err := s.cfg.Lab.SeenMachine(r.Context(), m.MACs[0], rung, "", false); err != nil && r.Context().Err() == nil {
			s.cfg.Log.Warn("http: note a rung", "machine", m.Label(), "rung", rung, "err", err)
		}
	}
	start := time.Now()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
	if known {
		s.cfg.Lab.Log(lab.Line{Machine: m.ID, Source: "http", Text: fmt.Sprintf("%s %s in %.1f s", rung, lab.Bytes(int64(len(b))), time.Since(start).Seconds())})
	}
}

// climber is the machine that a request says it comes from.
func (s *Server) climber(r *http.Request) (lab.Machine, bool) {
	id, err := strconv.ParseInt(r.URL.Query().Get("m"), 10, 64)
	if err != nil || r.Method != http.MethodGet {
		return lab.Machine{}, false
	}
	now, err := s.cfg.Lab.Watch(r.Context(), 0)
	if err != nil {
		return lab.Machine{}, false
	}
	m, ok := now.Machines[id]
	return m, ok && len(m.MACs) > 0
}

func remote(r *http.Request) netip.Addr {
	p, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return p.Addr().Unmap()
}

// localOf is the address of ours that the client reached; a header could not be believed.
func localOf(r *http.Request) netip.Addr {
	a, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return addrOf(a)
}
