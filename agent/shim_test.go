package agent

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"carte/lab"
)

// The test binary takes the agent's part: as process 1 of namespaces of its own, and as what the agent starts there.
const trialInit = "carte-trial-init"

func init() {
	switch os.Args[0] {
	case ShimName:
		os.Exit(Shim())
	case GuardName:
		os.Exit(Guard())
	case trialInit:
		fmt.Fprintln(os.Stderr, "trial:", becomeTrial())
		os.Exit(1)
	}
}

// A shimTrial is what a trial's process 1 puts together: a small system with busybox, in memory.
type shimTrial struct {
	Root  string
	Task  shimTask
	Files map[string]string
}

// becomeTrial makes a system and becomes its init, as the agent does. It returns only with an error.
func becomeTrial() error {
	if os.Getpid() != 1 {
		return fmt.Errorf("process %d is no process 1", os.Getpid())
	}
	var x shimTrial
	if err := json.NewDecoder(os.Stdin).Decode(&x); err != nil {
		return err
	}
	at := func(p string) string { return filepath.Join(x.Root, p) }
	mount := func(kind, dir, data string) error {
		if err := os.MkdirAll(at(dir), 0o755); err != nil {
			return err
		}
		if err := unix.Mount(kind, at(dir), kind, 0, data); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", "", "mode=0755"); err != nil {
		return err
	}
	for _, dir := range []string{"/proc", "/dev", "/run", "/bin", "/etc", "/base", "/over/upper", "/over/work", "/still/upper", "/still/work", lab.OutPlace} {
		if err := os.MkdirAll(at(dir), 0o755); err != nil {
			return err
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	x.Files["/bin/busybox"] = string(busybox)
	for name, text := range x.Files {
		os.MkdirAll(filepath.Dir(at(name)), 0o755)
		if err := os.WriteFile(at(name), []byte(text), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"sh", "sleep", "rm", "mkdir", "cat", "chmod", "ln", "mknod", "true", "ps"} {
		if err := os.Symlink("busybox", at("/bin/"+name)); err != nil {
			return err
		}
	}
	if err := unix.Mknod(at("/dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return err
	}
	if err := os.WriteFile(at("/dev/console"), nil, 0o600); err != nil { // a file, so that it can be read afterwards
		return err
	}
	if err := mount("proc", "/proc", ""); err != nil {
		return err
	}
	for _, dir := range []string{"/usr", "/lib", "/lib64"} { // the agent needs no libraries, a test may
		if to, err := os.Readlink(dir); err == nil {
			err = os.Symlink(to, at(dir))
		} else if _, err := os.Stat(dir); err == nil {
			if err := os.MkdirAll(at(dir), 0o755); err != nil {
				return err
			}
			if err := unix.Mount(dir, at(dir), "", unix.MS_BIND, ""); err != nil {
				return err
			}
		}
	}
	for place, name := range map[string]string{"/home/me": "over", lab.ProjectPlace: "still"} {
		data := fmt.Sprintf("lowerdir=%[1]s/base%[2]s,upperdir=%[1]s/%[3]s/upper,workdir=%[1]s/%[3]s/work,redirect_dir=off,metacopy=off", x.Root, place, name)
		if err := os.MkdirAll(at("/base"+place), 0o755); err != nil {
			return err
		}
		if err := mount("overlay", place, data); err != nil {
			return err
		}
	}
	x.Task.Backs = []backDir{{Image: "me", Upper: "/over/upper", Place: "/home/me"}, {Image: "work", Upper: "/still/upper", Place: lab.ProjectPlace}}
	x.Task.Init = "/bin/busybox"
	if err := unix.Chroot(x.Root); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := spawnShim(x.Task); err != nil {
		return err
	}
	return unix.Exec("/bin/busybox", []string{"init"}, []string{"PATH=/bin"})
}

// home is a server's side of a shim: what came, in order.
type home struct {
	*server
	t     *testing.T
	ended chan error // the trial's process 1 has
	mu    sync.Mutex
	woken *sync.Cond
	came  []string
	tars  map[string]map[string]*tar.Header
	texts map[string]string
	slow  func() // before a tar is taken
}

func newHome(t *testing.T) *home {
	h := &home{server: newServer(t, nil), t: t, ended: make(chan error, 1), tars: map[string]map[string]*tar.Header{}, texts: map[string]string{}}
	h.woken = sync.NewCond(&h.mu)
	h.server.key = strings.Repeat("ab", 32)
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+lab.PathReport, func(w http.ResponseWriter, r *http.Request) {
		var rep lab.Report
		if !h.mine(w, r) || json.NewDecoder(r.Body).Decode(&rep) != nil {
			return
		}
		h.note(rep.Lines...)
		var reply lab.Reply
		if h.reply != nil {
			reply = h.reply(rep)
		}
		json.NewEncoder(w).Encode(reply)
	})
	take := func(w http.ResponseWriter, r *http.Request) {
		if !h.mine(w, r) {
			return
		}
		if h.slow != nil {
			h.slow()
		}
		all := map[string]*tar.Header{}
		for in := tar.NewReader(r.Body); ; {
			head, err := in.Next()
			if err == io.EOF {
				break
			}
			text, err2 := io.ReadAll(in)
			if err != nil || err2 != nil {
				t.Errorf("%s: %v, %v", r.URL.Path, err, err2)
				return
			}
			all[head.Name] = head
			h.mu.Lock()
			h.texts[head.Name] = string(text)
			h.mu.Unlock()
		}
		h.mu.Lock()
		h.tars[r.URL.Path] = all
		h.mu.Unlock()
		h.note(r.URL.Path)
		json.NewEncoder(w).Encode(lab.Kept{Ref: lab.Ref{Name: filepath.Base(r.URL.Path), Version: 2}})
	}
	mux.HandleFunc("POST "+lab.PathOut, take)
	mux.HandleFunc("POST "+lab.PathBack+"{image}", take)
	h.Config.Handler = mux
	return h
}

func (h *home) note(what ...string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.came = append(h.came, what...)
	h.woken.Broadcast()
}

// systemEnded is noted when the trial's system has ended.
const systemEnded = "(the system has ended)"

// until waits until something came that contains words, and returns its place.
func (h *home) until(words string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		for i, c := range h.came {
			if strings.Contains(c, words) {
				return i
			}
			if c == systemEnded {
				h.t.Fatalf("the system has ended before %q came; what came: %q", words, h.came)
			}
		}
		h.woken.Wait()
	}
}

// beginTrial starts a system in namespaces of its own.
func beginTrial(t *testing.T, h *home, given []lab.Clause, files map[string]string) *os.Process {
	if os.Getuid() != 0 {
		t.Skip("it takes root to mount an overlay and to make a process 1")
	}
	if _, err := os.Stat("/bin/busybox"); err != nil {
		t.Skip("there is no /bin/busybox (package busybox-static)")
	}
	x := shimTrial{Root: t.TempDir(), Files: files, Task: shimTask{Server: h.URL, Pin: h.pin(), Key: h.key, Orders: lab.Orders{
		Do: lab.DoRun, Boot: 3, Machine: "rack1", Stack: "small", Compose: lab.Compose{Given: given}}}}
	text, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{trialInit}
	cmd.Stdin, cmd.Stderr = strings.NewReader(string(text)), os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(2*time.Minute, func() { cmd.Process.Kill() }) // of the namespace's process 1: all go with it
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.ended <- cmd.Wait()
		h.note(systemEnded)
	}()
	t.Cleanup(func() {
		stuck.Stop()
		cmd.Process.Kill()
		<-done
	})
	return cmd.Process
}

const trialInittab = "::sysinit:/bin/true\n::respawn:/bin/sleep 1000\n"

var allClauses = []lab.Clause{lab.Heartbeat, lab.Autostart, lab.Results}

func TestShimBesideAPlainInit(t *testing.T) {
	h := newHome(t)
	system := beginTrial(t, h, allClauses, map[string]string{
		"/etc/inittab":           trialInittab,
		"/base/home/me/gone":     "1",
		"/base/home/me/kept":     "1",
		"/base/home/me/dir/old":  "1",
		"/base/home/me/mode":     "1",
		"/base/carte/project/in": "7",
		"/base/carte/project/run": `#!/bin/sh
cat in; echo; cat /proc/1/comm
echo "::carte metric boot=$CARTE_BOOT"
cd /home/me; rm gone; rm -r dir; mkdir dir; echo new >dir/new; chmod 600 mode; ln -s kept link; ln dir/new hard; mknod pipe p
echo 42 >/carte/out/answer
`,
	})
	last := h.until("::carte done exit 0")
	if out, back := h.until(lab.PathOut), h.until(lab.PathBack+"me"); out > back || back > last {
		t.Errorf("came in another order: %q", h.came)
	}
	for _, words := range []string{"::carte metric boot=3", "no new process", "work: nothing was changed in it", "kept as me@2", "busybox"} {
		h.until(words)
	}
	h.mu.Lock()
	if h.texts["answer"] != "42\n" {
		t.Errorf("results: %v", h.tars[lab.PathOut])
	}
	back := h.tars[lab.PathBack+"me"]
	for name, kind := range map[string]byte{".wh.gone": tar.TypeReg, "dir/": tar.TypeDir, "dir/.wh..wh..opq": tar.TypeReg, "dir/new": tar.TypeReg,
		"mode": tar.TypeReg, "link": tar.TypeSymlink, "hard": tar.TypeLink, "pipe": tar.TypeFifo} {
		if back[name] == nil || back[name].Typeflag != kind {
			t.Errorf("changes of me: %s is %+v, want one of kind %c", name, back[name], kind)
		}
	}
	if len(back) != 8 || back["mode"].Mode != 0o600 || h.texts["dir/new"] != "new\n" || back["hard"].Linkname != "dir/new" {
		t.Errorf("changes of me: %v", back)
	}
	for name, head := range back {
		for x := range head.PAXRecords {
			if strings.Contains(x, "overlay") {
				t.Errorf("%s has the overlay's own attribute %s", name, x)
			}
		}
	}
	h.mu.Unlock()
	system.Signal(unix.SIGTERM) // busybox takes it for a reboot
	if err := <-h.ended; err == nil || !strings.Contains(err.Error(), "hangup") {
		t.Errorf("the system ended with %v, want its restart (hangup)", err)
	}
}

// busybox kills everything one second after it said that it would. What is to go home takes longer.
func TestShimHoldsAPlainInit(t *testing.T) {
	h := newHome(t)
	h.slow = func() { <-time.After(3 * time.Second) }
	system := beginTrial(t, h, []lab.Clause{lab.Results}, map[string]string{
		"/etc/inittab": "::sysinit:/bin/busybox cp /bin/busybox /home/me/busybox\n" + trialInittab, "/carte/out/big": strings.Repeat("0123456789abcdef", 1<<18)})
	h.until("beside its system")
	if err := system.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	h.until("::carte done the system went down")
	h.until(lab.PathBack + "me")
	if err := <-h.ended; err == nil || !strings.Contains(err.Error(), "hangup") {
		t.Errorf("the system ended with %v, want its restart (hangup)", err)
	}
	if len(h.texts["big"]) != 16<<18 || len(h.texts["busybox"]) == 0 {
		t.Errorf("%d bytes came home", len(h.texts["big"]))
	}
}

// A shim that is told to make room restarts the machine, whatever runs.
func TestShimRestarts(t *testing.T) {
	h := newHome(t)
	h.reply = func(r lab.Report) lab.Reply {
		for _, l := range r.Lines {
			if l == "begun" {
				return lab.Reply{Orders: &lab.Orders{Do: lab.DoLocal, Why: "boot 4 is next"}}
			}
		}
		return lab.Reply{}
	}
	beginTrial(t, h, allClauses, map[string]string{"/etc/inittab": trialInittab, "/bin/a-getty": "#!/bin/sh\nsleep 1000",
		"/base/carte/project/run": "#!/bin/sh\ntrap '' TERM\necho begun\nsleep 1000\n"})
	if err := <-h.ended; err == nil || !strings.Contains(err.Error(), "hangup") {
		t.Errorf("the system ended with %v, want its restart (hangup)", err)
	}
}

// The guard sees the system up, holds its end until all is home, and then lets it go.
func TestGuard(t *testing.T) {
	g := newGate()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	var guard *exec.Cmd
	for up := false; !up; { // until the gate listens
		guard = exec.Command("/proc/self/exe")
		guard.Args = []string{GuardName}
		if err := guard.Start(); err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		go func() { guard.Wait(); close(over) }()
		select {
		case <-g.up:
			up = true
			defer func() { guard.Process.Kill(); <-over }()
			guard.Process.Signal(unix.SIGTERM)
			<-g.down
			select {
			case <-over:
				t.Error("the guard let the system go before all was home")
			default:
			}
			close(g.away)
			<-over
			if code := guard.ProcessState.ExitCode(); code != 0 {
				t.Errorf("the guard ended with %d", code)
			}
		case <-over:
		case err := <-ended:
			t.Fatalf("the gate ended: %v", err)
		}
	}
}
