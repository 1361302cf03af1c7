package store

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// TestKilledResults runs itself again as a process in which a boot brings home one set of results after the other and writes back what it changed, and kills
// that with SIGKILL at random moments. There is always one whole set, none older than what was acknowledged, and no half version.
func TestKilledResults(t *testing.T) {
	if dir := os.Getenv(toBeKilled); dir != "" {
		bringing(t, dir)
		return
	}
	rounds := kills(12)
	r := rand.New(rand.NewPCG(12, uint64(time.Now().UnixNano())))
	sets := 0
	for range rounds {
		dir, last, wrote := t.TempDir(), -1, 0
		untilKilled(t, dir, time.Minute, func(kill *time.Timer, word, rest string) (known bool) {
			switch n, err := strconv.Atoi(rest); {
			case word == "runs":
				kill.Reset(time.Duration(r.IntN(250_000)) * time.Microsecond)
			case word == "home" && err == nil:
				last, sets = n, sets+1
			case word == "wrote" && err == nil:
				wrote = n
			default:
				return false
			}
			return true
		})
		d := hold(t, dir)
		s, err := d.Watch(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if s.Images["home"].Latest < wrote {
			t.Errorf("home@%d was acknowledged, and there is %+v", wrote, s.Images["home"])
		}
		for _, v := range s.VersionsOf("home") {
			if err := d.Verify(t.Context(), v.Ref(), nil); err != nil {
				t.Error(err)
			}
		}
		for id := range s.Boots {
			wholeSet(t, d, id, last)
		}
		if err := d.State.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d kills, %d sets of results were acknowledged", rounds, sets)
	if sets == 0 {
		t.Error("the process was killed before it did anything")
	}
}

// bringing works until it is killed, and says what is done.
func bringing(t *testing.T, dir string) {
	d := composedDesk(t, dir)
	b := running(t, d, "vm-1", "s")
	fmt.Println("runs")
	for n := 0; ; n++ {
		if err := d.Out(t.Context(), b, bytes.NewReader(resultSet(t, n))); err != nil {
			t.Fatal(err)
		}
		fmt.Println("home", n)
		kept, err := d.Back(t.Context(), b, "home", bytes.NewReader(tarred(t, member{name: "keep", text: fmt.Sprint(n)})))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("wrote", kept.Ref.Version)
	}
}

// resultSet is the n-th set: files that all say its number, and a different number of them.
func resultSet(t testing.TB, n int) []byte {
	all := []member{{name: "of", text: fmt.Sprint(n)}}
	for i := range 5 + n%3 {
		all = append(all, member{name: fmt.Sprintf("deep/%d", i), text: fmt.Sprint(n)})
	}
	return tarred(t, all...)
}

func wholeSet(t *testing.T, d *Desk, boot int64, least int) {
	t.Helper()
	if _, err := os.Stat(d.outOf(boot)); err != nil {
		if least >= 0 {
			t.Errorf("set %d was acknowledged: %v", least, err)
		}
		return
	}
	got := read(t, d.outOf(boot))
	n, err := strconv.Atoi(got["of"])
	if err != nil || n < least || len(got) != 6+n%3 {
		t.Errorf("there are %d files of set %q, and set %d was acknowledged", len(got), got["of"], least)
	}
	for name, text := range got {
		if text != got["of"] {
			t.Errorf("%s is of set %s, and the others of %s", name, text, got["of"])
		}
	}
}
