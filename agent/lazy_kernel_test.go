package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"carte/lab"
)

// Under a kernel that cannot serve a lazy layer, all of it is laid before anybody may mount it, which is said; a boot that
// requires the clause is refused, by the clause's name.
func TestLazyUnderAKernelThatCannot(t *testing.T) {
	image := joined(noise(1, 5*c), make([]byte, 3*c), noise(2, 2*c+777))
	for need, must := range map[lab.Need][]lab.Clause{lab.Optional: nil, lab.Required: {lab.Lazy}} {
		t.Run(string(need), func(t *testing.T) {
			l, _, path := newLazy(t, image, noise(3, len(image)))
			l.part.Ref = lab.Ref{Name: "data", Version: 1}
			plain, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer plain.Close()
			heard, said, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer heard.Close()
			life := &lazyLife{voice: &voice{console: io.Discard, log: discard}, words: said, nodes: make([]string, 2), waiting: 1, coming: 2}
			life.task.Orders.Compose.Must = must
			err = life.bring(t.Context(), &lazyDevice{lazy: l, plain: plain}, &unserved{errors.New("there is no FUSE")}, func(node string) { life.ready(1, node) })
			said.Close()
			if need == lab.Required {
				if !errors.Is(err, lab.ErrRefused) || !strings.Contains(err.Error(), "clause lazy is required and cannot be given: under Linux ") || !strings.Contains(err.Error(), "there is no FUSE") {
					t.Errorf("it is not refused: %v", err)
				}
				if bytes.Equal(onDisk(t, path, len(image)), image) {
					t.Error("it is laid all the same")
				}
				return
			}
			if err != nil || !bytes.Equal(onDisk(t, path, len(image)), image) {
				t.Fatalf("it is not laid: %v", err)
			}
			var words []lazyWord
			for in := json.NewDecoder(heard); ; {
				var w lazyWord
				if err := in.Decode(&w); err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				words = append(words, w)
			}
			if len(words) != 2 || !strings.Contains(words[0].Said, "clause lazy is not given") || !strings.Contains(words[0].Said, "data@1") || len(words[1].Nodes) != 2 || words[1].Nodes[1] != path {
				t.Errorf("it says %+v", words)
			}
		})
	}
}
