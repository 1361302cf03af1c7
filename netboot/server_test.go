package netboot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/chunk"
	"carte/netboot/payload"
)

// store is a ChunkSource in memory.
type store struct {
	mu        sync.Mutex
	manifests map[chunk.ID]chunk.Manifest
	chunks    map[chunk.ID][]byte
	broken    chunk.ID
}

func (s *store) Manifest(root chunk.ID) (chunk.Manifest, error) {
	m, ok := s.manifests[root]
	if !ok {
		return m, fmt.Errorf("manifest %v: %w", root, lab.ErrNotFound)
	}
	return m, nil
}

func (s *store) Stored(id chunk.ID) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.chunks[id]; ok && id != s.broken {
		return b, nil
	}
	return nil, errors.New("/secret/path: input/output error")
}

// add stores an image of random bytes, with a hole, and returns its manifest.
func (s *store) add(seed uint64, n int) chunk.Manifest {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b[chunk.Size:] {
		b[chunk.Size+i] = byte(r.Uint32())
	}
	m, err := chunk.Scan(context.Background(), bytes.NewReader(b), func(_ int, c []byte) error {
		s.chunks[chunk.Sum(c)] = chunk.Pack(nil, c)
		return nil
	})
	if err != nil {
		panic(err)
	}
	s.manifests[m.Root()] = m
	return m
}

var (
	kernelBytes = bytes.Repeat([]byte("kernel "), 40000)
	initrdBytes = bytes.Repeat([]byte("initrd "), 30000)
)

func testPayload() Payload {
	return Payload{
		Kernel:    func() ([]byte, error) { return kernelBytes, nil },
		Initramfs: func() ([]byte, error) { return initrdBytes, nil },
		IPXE:      payload.Payload{}.IPXE,
	}
}

var testCert = sync.OnceValue(func() tls.Certificate {
	c, k, err := NewCertificate()
	if err != nil {
		panic(err)
	}
	cert, err := ReadCertificate(c, k)
	if err != nil {
		panic(err)
	}
	return cert
})

// start listens and runs a server until the test ends.
func start(t *testing.T, c Config) *Server {
	t.Helper()
	if c.Payload.Kernel == nil {
		c.Payload = testPayload()
	}
	c.Cert, c.Log = testCert(), slog.New(slog.NewTextHandler(t.Output(), nil))
	if c.Chunks == nil {
		c.Chunks = &store{}
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Run ended with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("Run has not ended 10 s after its context")
		}
	})
	return s
}

func pinned() *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true,
		VerifyConnection: func(c tls.ConnectionState) error {
			sum := sha256.Sum256(c.PeerCertificates[0].Raw)
			if hex.EncodeToString(sum[:]) != PinOf(testCert()) {
				return errors.New("another certificate")
			}
			return nil
		}}}}
}

// An agent is what a test says to the API.
type agent struct {
	t    *testing.T
	base string
	key  string
	c    *http.Client
}

func (a agent) ask(method, path string, body []byte, headers ...string) (int, []byte, error) {
	a.t.Helper()
	r, err := http.NewRequest(method, a.base+path, bytes.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	if a.key != "" {
		r.Header.Set("Authorization", "Bearer "+a.key)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := a.c.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, b, err
}

// want asks and checks the status and a part of the answer.
func (a agent) want(status int, part, method, path string, body []byte, headers ...string) []byte {
	a.t.Helper()
	got, b, err := a.ask(method, path, body, headers...)
	if err != nil {
		a.t.Errorf("%s %s: %v", method, path, err)
	} else if got != status || !bytes.Contains(b, []byte(part)) {
		a.t.Errorf("%s %s: %d %.300s, want %d with %q", method, path, got, b, status, part)
	}
	return b
}

// flight is a lab where two virtual machines each have a boot of their own image.
type flight struct {
	*testing.T
	lab    *lab.Lab
	store  *store
	server *Server
	images []chunk.Manifest
}

func newFlight(t *testing.T) *flight {
	f := &flight{T: t, lab: openLab(t, newMemory()), store: &store{manifests: map[chunk.ID]chunk.Manifest{}, chunks: map[chunk.ID][]byte{}}}
	for i, name := range []string{"one", "two"} {
		m := f.store.add(uint64(i), 5*chunk.Size+100)
		f.images = append(f.images, m)
		say(t, f.lab,
			lab.AddVersion{Version: lab.Version{Image: name, Root: m.Root(), Bytes: m.Size}, Kind: "system", Form: lab.FormDisk},
			lab.PutStack{Stack: lab.Stack{Name: name, Layers: []lab.Ref{{Name: name}}}},
			lab.AddMachine{Name: "vm-" + name, Virtual: &lab.Virtual{}},
			lab.Queue{Machine: "vm-" + name, Stack: name})
	}
	f.server = start(t, Config{Lab: f.lab, Chunks: f.store})
	return f
}

func (f *flight) machine(name string) lab.Machine {
	s, err := f.lab.Watch(f.Context(), 0)
	if err != nil {
		f.Fatal(err)
	}
	m, err := s.Find(name)
	if err != nil {
		f.Fatal(err)
	}
	return m
}

func (f *flight) agent() agent {
	_, api := f.server.Addrs()
	return agent{t: f.T, base: "https://" + api[0].String(), c: pinned()}
}

// claimOf is what the machine's agent would say, with the token from its script.
func (f *flight) claimOf(name, key string) []byte {
	m := f.machine(name)
	s, err := f.lab.Script(f.Context(), m.MACs[0], "")
	if err != nil {
		f.Fatal(err)
	}
	return mustJSON(lab.Claim{Token: s.Token, Key: key, Inventory: lab.Inventory{Disks: []lab.Disk{{DiskID: m.Arms[0].DiskID, Path: "/dev/vda"}}}})
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func idBytes(ids ...chunk.ID) (b []byte) {
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}

func TestAgentReadsItsImage(t *testing.T) {
	f := newFlight(t)
	a := f.agent()
	key := strings.Repeat("01", 32)
	claim := f.claimOf("vm-one", key)
	var o lab.Orders
	if err := json.Unmarshal(a.want(200, `"do":"boot"`, "POST", lab.PathClaim, claim), &o); err != nil {
		t.Fatal(err)
	}
	a.want(200, `"do":"boot"`, "POST", lab.PathClaim, claim) // its answer was lost
	a.key = key
	b := a.want(200, "", "GET", lab.PathManifest+o.Writes[0].Root.String(), nil)
	m, err := chunk.Decode(b)
	if err != nil || m.Root() != o.Writes[0].Root {
		t.Fatalf("manifest: %v, %v", m.Root(), err)
	}
	var ids []chunk.ID
	for _, id := range m.IDs {
		if !id.IsZero() {
			ids = append(ids, id)
		}
	}
	ids[0], ids[2] = ids[2], ids[0]
	body := bytes.NewReader(a.want(200, "", "POST", lab.PathChunks, idBytes(ids...)))
	for _, want := range ids {
		id, stored, err := chunk.ReadFrame(body, nil)
		if err != nil || id != want {
			t.Fatalf("frame of %v: %v, want %v", id, err, want)
		}
		if _, err := chunk.UnpackAny(nil, stored, id); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := chunk.ReadFrame(body, nil); err != io.EOF {
		t.Errorf("after the last frame: %v", err)
	}
	a.want(200, "{}", "POST", lab.PathReport, mustJSON(lab.Report{Boot: o.Boot, Rung: lab.RungHash}))

	f.store.mu.Lock()
	f.store.broken = ids[1]
	f.store.mu.Unlock()
	if _, b, err := a.ask("POST", lab.PathChunks, idBytes(ids...)); err == nil {
		t.Errorf("half an answer of %d bytes looks whole", len(b))
	}
	if b := a.want(500, "E-FAILED", "POST", lab.PathChunks, idBytes(ids[1])); bytes.Contains(b, []byte("secret")) {
		t.Errorf("carte's paths are told: %s", b)
	}
}

// Nothing gives a right but one's own token and key, for one's own plan.
func TestAgentsRights(t *testing.T) {
	f := newFlight(t)
	one, two := f.agent(), f.agent()
	one.key, two.key = strings.Repeat("01", 32), strings.Repeat("02", 32)
	claim := f.claimOf("vm-one", one.key)
	one.want(401, "E-DENIED", "POST", lab.PathReport, mustJSON(lab.Report{}))
	one.want(200, "", "POST", lab.PathClaim, claim)
	two.want(200, "", "POST", lab.PathClaim, f.claimOf("vm-two", two.key))

	var c lab.Claim
	if err := json.Unmarshal(claim, &c); err != nil {
		t.Fatal(err)
	}
	c.Key = strings.Repeat("03", 32)
	one.want(401, "was used already", "POST", lab.PathClaim, mustJSON(c))
	token := strings.Split(c.Token, ".")
	c.Token = fmt.Sprintf("%d.%s.%s", f.machine("vm-two").ID, token[1], token[2])
	one.want(401, "E-DENIED", "POST", lab.PathClaim, mustJSON(c))

	mine, foreign := f.images[0], f.images[1]
	one.want(401, "not in this boot's plan", "GET", lab.PathManifest+foreign.Root().String(), nil)
	one.want(401, "not in this boot's plan", "POST", lab.PathChunks, idBytes(foreign.IDs[1]))
	one.want(401, "not in this boot's plan", "POST", lab.PathChunks, idBytes(mine.IDs[1], foreign.IDs[1]))
	one.want(401, "not in this boot's plan", "POST", lab.PathChunks, idBytes(chunk.ID{}))
	one.want(401, "does not work on boot", "POST", lab.PathReport, mustJSON(lab.Report{Boot: 2}))
	two.want(200, "", "GET", lab.PathManifest+foreign.Root().String(), nil)

	nobody := f.agent()
	for _, headers := range [][]string{nil, {"type", "system"}, {"Type", "system", "X-Forwarded-For", "127.0.0.1"}, {"Authorization", one.key}, {"Authorization", "Bearer "}, {"Authorization", "Basic " + one.key}, {"Cookie", "key=" + one.key}} {
		nobody.want(401, "E-DENIED", "GET", lab.PathManifest+mine.Root().String()+"?key="+one.key, nil, headers...)
		nobody.want(401, "E-DENIED", "POST", lab.PathChunks, idBytes(mine.IDs[1]), headers...)
		nobody.want(401, "E-DENIED", "POST", lab.PathReport, mustJSON(lab.Report{Boot: 1}), headers...)
	}
}

func TestAgentsBadRequests(t *testing.T) {
	f := newFlight(t)
	a := f.agent()
	a.key = strings.Repeat("01", 32)
	a.want(200, "", "POST", lab.PathClaim, f.claimOf("vm-one", a.key))
	id := f.images[0].IDs[1]
	a.want(400, "32 bytes each", "POST", lab.PathChunks, nil)
	a.want(400, "32 bytes each", "POST", lab.PathChunks, id[:31])
	a.want(400, "more than", "POST", lab.PathChunks, bytes.Repeat(id[:], lab.MaxChunksAsked+1))
	a.want(200, "", "POST", lab.PathChunks, bytes.Repeat(id[:], lab.MaxChunksAsked))
	a.want(400, "E-INVALID", "POST", lab.PathClaim, []byte("{"))
	a.want(400, "something follows", "POST", lab.PathReport, []byte("{} {}"))
	a.want(400, "more than", "POST", lab.PathClaim, []byte(`{"token":"`+strings.Repeat("a", lab.MaxMessage)+`"}`))
	a.want(400, "E-INVALID", "GET", lab.PathManifest+"zz", nil)
	for _, path := range []string{"/", "/v1", "/v1/claim/", "/v1/verbs", "/v1/manifest/../claim", "//v1/claim", "/v1/%2e%2e/claim", "/boot.ipxe", "/v1/manifest/a/b"} {
		a.want(404, "E-NOT-FOUND", "POST", path, []byte("{}"))
	}
}

// get asks as no library would: the path goes as it is.
func get(t *testing.T, addr, line string, headers ...string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n", line, strings.Join(append(headers, ""), "\r\n"))
	b, err := io.ReadAll(c)
	if err != nil && len(b) == 0 {
		t.Fatalf("%q: %v", line, err)
	}
	return string(b)
}

func TestBootHTTP(t *testing.T) {
	f := newFlight(t)
	all, _ := f.server.Addrs()
	at := all[0].String()
	mac := string(f.machine("vm-one").MACs[0])
	for line, want := range map[string]string{
		"GET /boot.ipxe":             "200 OK",
		"GET /boot/" + mac + ".ipxe": "carte.token=",
		"GET /boot/" + strings.ReplaceAll(mac, ":", "-") + ".ipxe": "carte.token=",
		"HEAD /boot/" + mac + ".ipxe":                              "200 OK",
		"HEAD /kernel":                                             fmt.Sprintf("Content-Length: %d", len(kernelBytes)),
		"GET /initrd?m=99":                                         fmt.Sprintf("Content-Length: %d", len(initrdBytes)),
		"GET /":                                                    "404",
		"GET /boot/":                                               "404",
		"GET /boot/../kernel":                                      "404",
		"GET /boot/%2e%2e/kernel":                                  "404",
		"GET //kernel":                                             "404",
		"GET /kernel/":                                             "404",
		"GET /boot/" + mac + ".ipxe/":                              "404",
		"GET /boot/" + mac + ".ipxe%00":                            "404",
		"GET /boot/ff:ff:ff:ff:ff:ff.ipxe":                         "404",
		"GET /boot/../../../../etc/passwd":                         "404",
		"GET /boot/..%2f..%2fetc%2fpasswd":                         "404",
		"GET /v1/claim":                                            "404",
		"POST /kernel":                                             "405",
		"DELETE /boot/" + mac + ".ipxe":                            "405",
		"GET /" + strings.Repeat("a", 20000):                       "431",
		"GET kernel":                                               "400",
		"GET /boot/" + strings.ReplaceAll(mac, ":", "-") + ".ipxe?m=1&x=": "carte.token=",
	} {
		if got := get(t, at, line); !strings.Contains(got, want) {
			t.Errorf("%.80s: %.200s, want %s", line, got, want)
		}
	}
	if got := get(t, at, "GET /kernel", "Range: bytes=7-12"); !strings.HasSuffix(got, "\r\n\r\nkernel") || !strings.Contains(got, "206") {
		t.Errorf("range: %.300s", got)
	}
	if got := get(t, at, "GET /kernel"); !strings.HasSuffix(got, string(kernelBytes)) {
		t.Error("the kernel came out changed")
	}
	if got, want := f.server.ScriptURL(f.machine("vm-one")), "http://10.0.2.2:"; !strings.HasPrefix(got, want) {
		t.Errorf("script of a virtual machine: %s", got)
	}
}

// A header that the predecessor believed, and looking without asking, change nothing.
func TestLookingChangesNothing(t *testing.T) {
	f := newFlight(t)
	all, _ := f.server.Addrs()
	before := f.machine("vm-one").Ticket
	for _, h := range []string{"X-Nothing: 1", "type: system", "Authorization: Bearer system"} {
		if got := get(t, all[0].String(), "HEAD /boot/"+string(f.machine("vm-one").MACs[0])+".ipxe", h); strings.Contains(got, "carte.token") {
			t.Errorf("%s: %s", h, got)
		}
		if got := get(t, all[0].String(), "GET /boot/52:54:00:99:99:99.ipxe", h); !strings.Contains(got, "unknown machine") || strings.Contains(got, "carte.token") {
			t.Errorf("%s: a stranger got %s", h, got)
		}
	}
	if after := f.machine("vm-one").Ticket; after != before {
		t.Errorf("ticket %v became %v", before, after)
	}
}

func TestScripts(t *testing.T) {
	m := lab.Machine{ID: 7}
	at := hosts{"10.77.0.1:80", "10.77.0.1:4443"}
	user := hosts{"10.0.2.2:34567", "10.0.2.2:34568"}
	system := func(start lab.Start, cmdline string) lab.Script {
		return lab.Script{Do: lab.ScriptSystem, Machine: m, Boot: 3, Token: "7.4.0123456789abcdef", Why: "hpt starts", Plan: lab.Plan{Start: start, Cmdline: cmdline}}
	}
	rows := []struct {
		s  lab.Script
		at hosts
	}{
		{lab.Script{Do: lab.ScriptAgent, Machine: m, Boot: 3, Token: "7.2.0123456789abcdef", Why: "debian"}, at},
		{lab.Script{Do: lab.ScriptAgent, Machine: m, Token: "7.3.0123456789abcdef", Why: "nothing is queued; the agent looks at the machine and waits"}, user},
		{lab.Script{Do: lab.ScriptHold, Machine: m, Why: "unknown machine, code ABCD; adopt it: carte machine adopt 52:54:00:00:00:07 --name NAME"}, at},
		{lab.Script{Do: lab.ScriptLocal, Machine: m, Why: "parked: ${bad} && reboot || `x` \"y\" \n reboot"}, at},
		{system(lab.StartNetboot, "hugepages=64  console=ttyS1"), at},
		{system(lab.StartMemory, "com1=115200 console=com1"), user},
	}
	var text strings.Builder
	for _, row := range rows {
		o := ownWords(row.s, "52:54:00:00:00:07", row.at, strings.Repeat("ab", 32))
		o.initrd, o.named = row.s.Plan.Start == lab.StartNetboot, row.s.Plan.Start == lab.StartNetboot
		fmt.Fprintf(&text, "--- %s\n%s", row.s.Do, script(row.s, "52:54:00:00:00:07", row.at, strings.Repeat("ab", 32), o))
	}
	text.WriteString("--- who\n" + whoScript)
	golden(t, "scripts.txt", text.String())
}

// Too many connections of one address are closed, those of others are not.
func TestLimited(t *testing.T) {
	l := &limited{open: map[netip.Addr]int{}}
	a, b := addrOf(&net.TCPAddr{IP: net.IPv4(10, 77, 0, 2), Port: 1}), addrOf(&net.TCPAddr{IP: net.IPv4(10, 77, 0, 3), Port: 1})
	for i := range maxConnsEach {
		if !l.take(a) {
			t.Fatalf("connection %d was refused", i)
		}
	}
	if l.take(a) || !l.take(b) {
		t.Error("the limit of one address is not kept, or is another's as well")
	}
	l.give(a)
	if !l.take(a) {
		t.Error("a closed connection still counts")
	}
}
