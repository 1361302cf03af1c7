package labtest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"carte/lab"
	"carte/lab/labtest"
)

// A halt is the wire of a simulated machine, which stands still at one step of its boot: the server has answered the
// request that makes the step, and the machine does not have the answer yet. Chunks are asked for by several at once, none of
// whom has an answer then.
type halt struct {
	at   string // as stepOf calls it
	lose bool   // the answer is lost when the machine goes on; else it arrives

	fetches atomic.Bool // it has said that it begins to fetch
	armed   atomic.Bool
	reached chan struct{}
	goOn    chan struct{}
	wire    http.RoundTripper
}

func newHalt(at string, lose bool) *halt {
	h := &halt{at: at, lose: lose, reached: make(chan struct{}), goOn: make(chan struct{}), wire: insecure()}
	h.armed.Store(true)
	return h
}

// plug makes it the wire of a machine.
func (h *halt) plug(sim *labtest.Sim) { sim.HTTP = &http.Client{Transport: h} }

// wait returns when the machine stands at the step; on lets it go on.
func (h *halt) wait(t *testing.T) {
	t.Helper()
	select {
	case <-h.reached:
	case <-time.After(labtest.Patience):
		t.Fatalf("the machine never came to the step %s", h.at)
	}
}

func (h *halt) on() { close(h.goOn) }

func (h *halt) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := h.wire.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	step := stepOf(r, resp)
	switch {
	case step == string(lab.RungFetch):
		h.fetches.Store(true)
	case step == "chunks" && !h.fetches.Load():
		step = "head" // of the image, which is read to fit the partition table
	}
	first := step == h.at && h.armed.CompareAndSwap(true, false)
	if !first && (step != h.at || step != "chunks") {
		return resp, err
	}
	if !h.lose {
		err = keep(resp)
	}
	if first {
		close(h.reached)
	}
	select {
	case <-h.goOn:
	case <-r.Context().Done():
		return nil, errors.Join(r.Context().Err(), resp.Body.Close())
	}
	if h.lose && first {
		return nil, errors.Join(errors.New("the wire was cut before the answer came"), resp.Body.Close())
	}
	return resp, err
}

// keep reads an answer to its end and puts what it read in its place.
func keep(resp *http.Response) error {
	all, err := io.ReadAll(resp.Body)
	err = errors.Join(err, resp.Body.Close())
	resp.Body = io.NopCloser(bytes.NewReader(all))
	return err
}

// stepOf names the step that a machine makes by a request: a rung, or local, proven, manifest, chunks.
func stepOf(r *http.Request, resp *http.Response) string {
	var report lab.Report
	switch path := r.URL.Path; {
	case strings.HasPrefix(path, "/boot/"):
		if keep(resp) != nil {
			return ""
		}
		script, _ := io.ReadAll(resp.Body) // from memory
		resp.Body = io.NopCloser(bytes.NewReader(script))
		if strings.Contains(string(script), "starts from the disk") {
			return "local"
		}
		return "script"
	case path == lab.PathClaim:
		return "hello"
	case path == lab.PathChunks:
		return "chunks"
	case strings.HasPrefix(path, lab.PathManifest):
		return "manifest"
	case path == lab.PathReport:
		body, err := r.GetBody()
		if err == nil {
			err = json.NewDecoder(body).Decode(&report)
		}
		if err != nil {
			return ""
		}
		if report.Proven {
			return "proven"
		}
		return string(report.Rung)
	default:
		return strings.TrimPrefix(path, "/") // kernel, initrd
	}
}
