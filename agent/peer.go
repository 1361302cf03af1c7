package agent

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"carte/lab"
)

// Machines that lay the same image at the same time take chunks from one another, so that the server sends each about
// once. The server tells them of one another; none trusts another: what comes is hashed before it is written, and who
// sent it wrong is asked no more.
//
//	peer.go        the swarm of one boot: the listener, its key, who else there is
//	peer_serve.go  what is handed to others: only chunks of the own plan that this disk holds, hashed as they are read
//	peer_ask.go    what is asked of another
//	peer_pool.go   what is still wanted; peer_share.go which of it comes from where; peer_take.go the taking
//
// Where there is nobody else, nothing waits for anybody and the server is asked in the order of the disk.
type swarm struct {
	me       lab.Peer // what the server is told
	listener net.Listener
	say      func(format string, args ...any)
	slots    chan struct{} // held by requests for chunks that are being answered

	mu      sync.Mutex
	listed  []lab.Peer      // the others that the server named last
	dropped map[string]bool // tokens of those that lied
	pool    *pool           // what is being fetched; nil before and after

	shelving sync.RWMutex // held by who reads from the disk for another
	shelf    *pool        // what can be handed out; nil while there is no disk
}

// newSwarm listens on the address of this machine that faces the server. The key and the token are made here, for this
// boot, and are never on a disk. serve closes the listener.
func newSwarm(server string, say func(format string, args ...any)) (*swarm, error) {
	u, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	way, err := net.Dial("udp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "443"))) // sends nothing: it is how the kernel is asked
	if err != nil {
		return nil, err
	}
	ip := way.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	if err := way.Close(); err != nil {
		return nil, err
	}
	cert, err := newCertificate()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", netip.AddrPortFrom(ip, 0).String())
	if err != nil {
		return nil, err
	}
	token := make([]byte, 32)
	rand.Read(token) // never fails; see crypto/rand
	pin := sha256.Sum256(cert.Certificate[0])
	return &swarm{
		me:       lab.Peer{Addr: l.Addr().String(), Pin: hex.EncodeToString(pin[:]), Token: hex.EncodeToString(token)},
		listener: tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}),
		say:      say,
		slots:    make(chan struct{}, servedAtOnce),
		dropped:  map[string]bool{},
	}, nil
}

// newCertificate makes a certificate that is known by its pin and by nothing else: this machine's clock may be wrong.
func newCertificate() (tls.Certificate, error) {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a key: %w", err)
	}
	x := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, x, x, public, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// meet takes the list of others from a reply.
func (s *swarm) meet(all []lab.Peer) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed = s.listed[:0:0]
	for _, p := range all {
		if _, err := netip.ParseAddrPort(p.Addr); err == nil && p.Token != s.me.Token && !s.dropped[p.Token] && len(s.listed) < lab.MaxPeers {
			s.listed = append(s.listed, p)
		}
	}
	if s.pool != nil {
		s.pool.meet(s.listed)
	}
}

// drop asks one of the others no more in this boot.
func (s *swarm) drop(who lab.Peer, why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dropped[who.Token] {
		s.dropped[who.Token] = true
		s.say("the machine at %s is asked for chunks no more: %v; nothing of that was written", who.Addr, why)
	}
}

// join returns what fetches from others, beside the fetchers. From now on they may have what the pool has.
func (p *pool) join(s *swarm) group {
	p.swarm, p.seed, p.recent = s, seedOf(s.me.Token), newRecent()
	s.shelving.Lock()
	s.shelf = p
	s.shelving.Unlock()
	s.mu.Lock()
	s.pool = p
	p.meet(s.listed)
	s.mu.Unlock()
	g := together(fetchers, p.taker)
	for i := range p.peers {
		g = append(g, p.watcher(i))
	}
	return g
}

// leave asks nobody any more.
func (s *swarm) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pool.meet(nil)
	s.pool = nil
}

// unshelve hands out nothing any more; when it returns, nobody reads the disk.
func (s *swarm) unshelve() {
	if s == nil {
		return
	}
	s.shelving.Lock()
	defer s.shelving.Unlock()
	s.shelf = nil
}

// swarm opens this boot to other machines. What keeps it from that is said, and is no reason to fail.
func (w *work) openSwarm() {
	if !w.Peers {
		return
	}
	s, err := newSwarm(w.client.base, w.say)
	if err != nil {
		w.say("no chunks are handed to other machines: %v", err)
		return
	}
	w.swarm = s
}

// serve hands out chunks until ctx ends.
func (w *work) serve(ctx context.Context) error {
	if w.swarm == nil {
		return nil
	}
	return w.swarm.serve(ctx)
}
