package shim

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"carte/lab"
)

// A server that speaks a shim's words and nothing more. The real one is tried in lab/labtest.
type server struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	woken   *sync.Cond
	away    bool                        // it answers nobody
	reply   func(lab.Report) lab.Reply  // may be nil
	out     func() error                // may be nil: takes all
	back    func() (lab.Kept, error)    // may be nil: takes all
	orders  lab.Orders                  // of a claim
	reports []lab.Report                //
	lines   []string                    // of all reports
	order   []string                    // what came, in order: lines, "OUT", "BACK image"
	tars    map[string]map[string]entry // by path, then name
	key     string
}

type entry struct {
	tar.Header
	text string
}

const testKey = "0123"

func newServer(t *testing.T) *server {
	s := &server{t: t, tars: map[string]map[string]entry{}, key: testKey}
	s.woken = sync.NewCond(&s.mu)
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.woken.Broadcast()
	defer s.mu.Unlock()
	if s.away {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	if r.URL.Path != lab.PathClaim && r.Header.Get("Authorization") != "Bearer "+s.key {
		refuse(w, fmt.Errorf("this key is no longer a shim's: %w", lab.ErrDenied))
		return
	}
	switch {
	case r.URL.Path == lab.PathClaim:
		var c lab.Claim
		if json.NewDecoder(r.Body).Decode(&c) != nil || c.Token != "good" {
			refuse(w, fmt.Errorf("the token was used: %w", lab.ErrDenied))
			return
		}
		s.key = c.Key
		json.NewEncoder(w).Encode(s.orders)
	case r.URL.Path == lab.PathReport:
		s.report(w, r)
	case r.URL.Path == lab.PathOut:
		s.take(w, r, "OUT", s.out)
	case strings.HasPrefix(r.URL.Path, lab.PathBack):
		kept := lab.Kept{Ref: lab.Ref{Name: path.Base(r.URL.Path), Version: 2}}
		taken := s.take(w, r, "BACK "+path.Base(r.URL.Path), func() (err error) {
			if s.back != nil {
				kept, err = s.back()
			}
			return err
		})
		if taken {
			json.NewEncoder(w).Encode(kept)
		}
	}
}

func (s *server) report(w http.ResponseWriter, r *http.Request) {
	var rep lab.Report
	if json.NewDecoder(http.MaxBytesReader(w, r.Body, lab.MaxMessage)).Decode(&rep) != nil {
		s.t.Error("a report is cut off, too long, or no JSON")
		return
	}
	s.reports, s.lines, s.order = append(s.reports, rep), append(s.lines, rep.Lines...), append(s.order, rep.Lines...)
	var reply lab.Reply
	if s.reply != nil {
		reply = s.reply(rep)
	}
	json.NewEncoder(w).Encode(reply)
}

func (s *server) take(w http.ResponseWriter, r *http.Request, what string, may func() error) (taken bool) {
	if may != nil {
		if err := may(); err != nil {
			refuse(w, err)
			return false
		}
	}
	all := map[string]entry{}
	for t := tar.NewReader(r.Body); ; {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		text, err2 := io.ReadAll(t)
		if err != nil || err2 != nil {
			s.t.Errorf("%s: %v, %v", what, err, err2)
			return false
		}
		if _, twice := all[h.Name]; twice {
			s.t.Errorf("%s: %s comes twice", what, h.Name)
		}
		all[h.Name] = entry{*h, string(text)}
	}
	s.tars[what] = all
	s.order = append(s.order, what)
	return true
}

func refuse(w http.ResponseWriter, err error) {
	f := lab.FailingOf(err)
	w.WriteHeader(f.HTTP)
	fmt.Fprintf(w, `{"error":{"code":%q,"message":%q}}`, f.Code, err.Error())
}

// until waits until is holds; it is asked after everything that comes, under the server's lock.
func (s *server) until(is func() bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !is() {
		s.woken.Wait()
	}
}

// said says whether a line came that contains words.
func (s *server) said(words string) bool {
	return slices.ContainsFunc(s.lines, func(l string) bool { return strings.Contains(l, words) })
}

// at returns the place of the first thing that came which is or begins with what; -1: none.
func (s *server) at(what string) int {
	return slices.IndexFunc(s.order, func(o string) bool { return strings.HasPrefix(o, what) })
}
