package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// liar is a machine that says it has all of an image, and does as it likes when it is asked.
type liar struct {
	lab.Peer
	image []byte
	root  string
	have  func(w http.ResponseWriter, good []byte)
	send  func(w http.ResponseWriter, ids []chunk.ID, stored [][]byte)
	asked atomic.Int64
	until chan struct{} // closed when the test is over
}

func newLiar(t *testing.T, image []byte, root chunk.ID) *liar {
	l := &liar{image: image, root: root.String(), until: make(chan struct{})}
	s := httptest.NewUnstartedServer(l)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(func() { close(l.until); s.Close() })
	sum := sha256.Sum256(s.Certificate().Raw)
	l.Peer = lab.Peer{Machine: 9, Addr: s.Listener.Addr().String(), Pin: hex.EncodeToString(sum[:]), Token: "liar"}
	return l
}

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := chunk.Count(int64(len(l.image)))
	if r.URL.Path == pathHave+l.root {
		good := make([]byte, 1+8*wordsOf(n))
		good[0] = complete
		for i := range n {
			good[1+i/8] |= 1 << (i % 8)
		}
		if l.have != nil {
			l.have(w, good)
		} else {
			w.Write(good)
		}
		return
	}
	l.asked.Add(1)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var ids []chunk.ID
	var stored [][]byte
	for ; len(body) > 0; body = body[4:] {
		i := int(binary.LittleEndian.Uint32(body))
		b := l.image[i*c : min((i+1)*c, len(l.image))]
		ids, stored = append(ids, chunk.Sum(b)), append(stored, chunk.Pack(nil, b))
	}
	if l.send == nil {
		honest(w, ids, stored)
		return
	}
	l.send(w, ids, stored)
}

func honest(w io.Writer, ids []chunk.ID, stored [][]byte) {
	for i := range ids {
		chunk.WriteFrame(w, ids[i], stored[i])
	}
}

// Whatever another machine sends, nothing wrong is written and the flash ends well; who lies is asked no more.
func TestPeersThatLie(t *testing.T) {
	image := joined(noise(1, 40*c), make([]byte, 3*c), noise(2, 30*c), noise(3, 1000))
	for _, tt := range []struct {
		name string
		have func(w http.ResponseWriter, good []byte)
		send func(l *liar) func(w http.ResponseWriter, ids []chunk.ID, stored [][]byte)
		lies bool // it is found out, and not only given up
		gave bool // something of it could be used
	}{
		{name: "honest", gave: true},
		{name: "wrong bytes", lies: true, send: func(*liar) func(http.ResponseWriter, []chunk.ID, [][]byte) {
			return func(w http.ResponseWriter, ids []chunk.ID, stored [][]byte) {
				for _, id := range ids {
					chunk.WriteFrame(w, id, chunk.Pack(nil, noise(77, c)))
				}
			}
		}},
		{name: "one flipped bit", lies: true, gave: true, send: func(*liar) func(http.ResponseWriter, []chunk.ID, [][]byte) {
			return func(w http.ResponseWriter, ids []chunk.ID, stored [][]byte) {
				stored[len(stored)-1][99] ^= 4
				honest(w, ids, stored)
			}
		}},
		{name: "other chunks", lies: true, send: func(l *liar) func(http.ResponseWriter, []chunk.ID, [][]byte) {
			return func(w http.ResponseWriter, ids []chunk.ID, stored [][]byte) {
				b := noise(78, c)
				chunk.WriteFrame(w, chunk.Sum(b), chunk.Pack(nil, b))
			}
		}},
		{name: "twice the same", lies: true, gave: true, send: func(*liar) func(http.ResponseWriter, []chunk.ID, [][]byte) {
			return func(w http.ResponseWriter, ids []chunk.ID, stored [][]byte) {
				chunk.WriteFrame(w, ids[0], stored[0])
				chunk.WriteFrame(w, ids[0], stored[0])
			}
		}},
		{name: "cut frames", gave: true, send: func(*liar) func(http.ResponseWriter, []chunk.ID, [][]byte) {
			return func(w http.ResponseWriter, ids []chunk.ID, stored [][]byte) {
				var b bytes.Buffer
				honest(&b, ids, stored)
				w.Write(b.Bytes()[:b.Len()-7])
				panic(http.ErrAbortHandler)
			}
		}},
		{name: "a frame without an end", send: func(*liar) func(http.ResponseWriter, []chunk.ID, [][]byte) {
			return func(w http.ResponseWriter, ids []chunk.ID, stored [][]byte) { w.Write(ids[0][:]) }
		}},
		{name: "a frame that is too long", lies: true, send: func(*liar) func(http.ResponseWriter, []chunk.ID, [][]byte) {
			return func(w http.ResponseWriter, ids []chunk.ID, stored [][]byte) {
				w.Write(ids[0][:])
				w.Write([]byte{255, 255, 255, 255})
			}
		}},
		{name: "a body without an end", lies: true, gave: true, send: func(l *liar) func(http.ResponseWriter, []chunk.ID, [][]byte) {
			return func(w http.ResponseWriter, ids []chunk.ID, stored [][]byte) {
				for honest(w, ids, stored); ; {
					select {
					case <-l.until:
						return
					default:
					}
					if _, err := w.Write(make([]byte, 64<<10)); err != nil {
						return
					}
				}
			}
		}},
		{name: "nothing of what it has", lies: true, send: func(*liar) func(http.ResponseWriter, []chunk.ID, [][]byte) {
			return func(http.ResponseWriter, []chunk.ID, [][]byte) {}
		}},
		{name: "silence", send: func(l *liar) func(http.ResponseWriter, []chunk.ID, [][]byte) {
			return func(http.ResponseWriter, []chunk.ID, [][]byte) { <-l.until }
		}},
		{name: "always busy", send: func(*liar) func(http.ResponseWriter, []chunk.ID, [][]byte) {
			return func(w http.ResponseWriter, _ []chunk.ID, _ [][]byte) { w.WriteHeader(503) }
		}},
		{name: "always in trouble", send: func(*liar) func(http.ResponseWriter, []chunk.ID, [][]byte) {
			return func(w http.ResponseWriter, _ []chunk.ID, _ [][]byte) { w.WriteHeader(500) }
		}},
		{name: "a short list", lies: true, have: func(w http.ResponseWriter, good []byte) { w.Write(good[:len(good)-1]) }},
		{name: "a long list", lies: true, have: func(w http.ResponseWriter, good []byte) { w.Write(append(good, 0)) }},
		{name: "more chunks than there are", lies: true, have: func(w http.ResponseWriter, good []byte) { good[len(good)-1] = 128; w.Write(good) }},
		{name: "a list of nothing known", lies: true, have: func(w http.ResponseWriter, good []byte) { good[0] = 99; w.Write(good) }},
		{name: "a silent list"},
		{name: "no list", have: func(w http.ResponseWriter, good []byte) { w.WriteHeader(204) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			m := newMachine(t, s, noise(9, len(image)), s.add(image), len(image))
			l := newLiar(t, image, m.s.orders.Writes[0].Root)
			l.have = tt.have
			if tt.send != nil {
				l.send = tt.send(l)
			}
			if tt.name == "a silent list" {
				l.have = func(http.ResponseWriter, []byte) { <-l.until }
			}
			s.reply = func(lab.Report) lab.Reply { return lab.Reply{Peers: []lab.Peer{l.Peer}} }
			if err := m.runWithOthers(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(m.disk(), image) {
				t.Fatal("the disk is not the image")
			}
			r, _ := s.last(func(r lab.Report) bool { return r.Rung == lab.RungHandover })
			if gave := r.Moved.Peers > 0 && tt.name != "wrong bytes"; gave != tt.gave {
				t.Errorf("%d bytes came from the other; want some: %v", r.Moved.Peers, tt.gave)
			}
			if found := m.said("asked for chunks no more"); found != tt.lies {
				t.Errorf("found out: %v, want %v", found, tt.lies)
			}
			if tt.name == "honest" && r.Moved.Fetched > r.Moved.Peers {
				t.Errorf("moved %+v, want most from the other", r.Moved)
			}
		})
	}
}

// What this machine has somewhere is not asked of others.
func TestPeersComeAfterWhatIsHere(t *testing.T) {
	image := noise(1, 40*c)
	old := joined(image[20*c:30*c], noise(2, 30*c))
	s := newServer(t, nil)
	m := newMachine(t, s, old, s.add(image), len(image))
	s.orders.Had = []lab.Write{{Ref: lab.Ref{Name: "old", Version: 1}, Root: s.add(old), Bytes: int64(len(old))}}
	l := newLiar(t, image, m.s.orders.Writes[0].Root)
	s.reply = func(lab.Report) lab.Reply { return lab.Reply{Peers: []lab.Peer{l.Peer}} }
	if err := m.runWithOthers(); err != nil || !bytes.Equal(m.disk(), image) {
		t.Fatalf("error %v, or the disk is not the image", err)
	}
	r, _ := s.last(func(r lab.Report) bool { return r.Rung == lab.RungHandover })
	if x := r.Moved; x.Reused < 5*c || x.Peers == 0 || x.Peers+x.Fetched > 36*c {
		t.Errorf("moved %+v, want ten chunks from the disk itself", x)
	}
}

// runWithOthers lives an agent's life beside others.
func (m *machine) runWithOthers() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o := m.options()
	o.Peers = true
	return Run(ctx, o)
}

// said says whether a report had those words.
func (m *machine) said(words string) bool {
	_, ok := m.s.last(func(r lab.Report) bool { return strings.Contains(strings.Join(r.Lines, "\n"), words) })
	return ok
}

// Machines that cannot be reached cost a moment: nobody is there, nobody answers, or somebody else is there.
func TestPeersOutOfReach(t *testing.T) {
	image := noise(1, 60*c)
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, addr := range map[string]string{"nobody": nobody.Addr().String(), "silent": silent.Addr().String(), "somebody else": "", "no address": "server.example:80"} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, nil)
			m := newMachine(t, s, make([]byte, len(image)), s.add(image), len(image))
			if addr == "" {
				addr = s.Listener.Addr().String()
			}
			s.reply = func(lab.Report) lab.Reply {
				return lab.Reply{Peers: []lab.Peer{{Addr: addr, Pin: strings.Repeat("ab", 32), Token: "x"}}}
			}
			began := time.Now()
			if err := m.runWithOthers(); err != nil || !bytes.Equal(m.disk(), image) {
				t.Fatalf("error %v, or the disk is not the image", err)
			}
			t.Logf("%v", time.Since(began))
		})
	}
}
