package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// sharedTries is how often a request is made again, one after another, that brought nothing.
const sharedTries = 4

// Shared reads what a Share of another computer offers. Its methods may be called from any number of goroutines.
type Shared struct {
	base string // the address, without its fragment
	http http.Client

	mu    sync.Mutex
	roots []string // of the manifests that came, for which chunks are asked
}

// ParseShare takes the address that a Share printed. Nothing is asked yet.
func ParseShare(address string) (*Shared, error) {
	u, err := url.Parse(address)
	token := ""
	if err == nil {
		token = strings.Trim(u.Path, "/")
	}
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || token == "" || strings.Contains(token, "/") {
		return nil, fmt.Errorf("the address of a share is what carte image serve printed on the other computer, http://ADDRESS:PORT/TOKEN or https://ADDRESS:PORT/TOKEN#PIN: %w", lab.ErrInvalid)
	}
	t := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: shareStill,
		MaxIdleConnsPerHost:   shareRequests,
		DisableCompression:    true,
		ReadBufferSize:        256 << 10,
	}
	if u.Scheme == "https" {
		if t.TLSClientConfig, err = pinnedTo(u.Fragment); err != nil {
			return nil, fmt.Errorf("%s: %w", u.Redacted(), err)
		}
	} else if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%s: only this computer's own loopback is asked without TLS; the address of another begins with https: %w", u.Host, lab.ErrInvalid)
	}
	s := &Shared{base: u.Scheme + "://" + u.Host + "/" + token, http: http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	return s, nil
}

// Close lets go of idle connections.
func (s *Shared) Close() error {
	s.http.CloseIdleConnections()
	return nil
}

// Version asks which version NAME, the newest, or NAME@3 is.
func (s *Shared) Version(ctx context.Context, ref lab.Ref) (v lab.Version, err error) {
	b, err := s.whole(ctx, "/version", url.Values{"ref": {ref.String()}})
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil || v.Image != ref.Name || ref.Version != 0 && v.Number != ref.Version || v.Bytes < 0 {
		return lab.Version{}, fmt.Errorf("the share answered for %s with something else: %w", ref, lab.ErrDamaged)
	}
	return v, nil
}

// Earlier are up to most versions of v's image that are older than v or newer, the newest first, without those that are gone.
func (s *Shared) Earlier(ctx context.Context, v lab.Version, most int) (all []lab.Version, err error) {
	newest, err := s.Version(ctx, lab.Ref{Name: v.Image})
	if err != nil {
		return nil, err
	}
	for n := newest.Number; n > 0 && n > newest.Number-2*most && len(all) < most; n-- {
		x, err := s.Version(ctx, lab.Ref{Name: v.Image, Version: n})
		switch {
		case errors.Is(err, lab.ErrNotFound):
		case err != nil:
			return nil, err
		case n != v.Number:
			all = append(all, x)
		}
	}
	return all, nil
}

// Manifest returns the manifest with that root, proven, of an image of size bytes.
func (s *Shared) Manifest(ctx context.Context, root chunk.ID, size int64) (m chunk.Manifest, err error) {
	b, err := s.whole(ctx, "/manifest", url.Values{"root": {root.String()}, "size": {strconv.FormatInt(size, 10)}})
	if err != nil {
		return m, err
	}
	if m, err = chunk.Decode(b); err == nil && (m.Root() != root || m.Size != size) {
		err = fmt.Errorf("manifest %v of %d bytes came for %v of %d: %w", m.Root(), m.Size, root, size, lab.ErrDamaged)
	}
	if err != nil {
		return chunk.Manifest{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.roots) < shareRoots { // the first is the one that is wanted; others only tell what is there
		s.roots = append(s.roots, root.String())
	}
	return m, nil
}

// Chunks hands over chunks in the order of ids, at most lab.MaxChunksAsked, in their stored form, unchecked but for the
// name; stored is valid until each returns. What a cut connection has brought is kept; only the rest is asked for again.
func (s *Shared) Chunks(ctx context.Context, ids []chunk.ID, each func(id chunk.ID, stored []byte) error) (got int, err error) {
	for idle := 0; got < len(ids); {
		n, err := s.chunks(ctx, ids[got:], each)
		if got += n; n > 0 {
			idle = 0
		}
		if err == nil {
			return got, nil
		}
		if idle++; idle == sharedTries || !errors.Is(err, lab.ErrUnreachable) {
			return got, err
		}
		if err := rest(ctx, idle); err != nil {
			return got, err
		}
	}
	return got, nil
}

func (s *Shared) chunks(ctx context.Context, ids []chunk.ID, each func(id chunk.ID, stored []byte) error) (got int, err error) {
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	s.mu.Lock()
	q := url.Values{"root": s.roots[:len(s.roots):len(s.roots)]}
	s.mu.Unlock()
	res, err := s.send(ctx, http.MethodPost, "/chunks", q, joinIDs(ids))
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	body := newWatched(res.Body, cut)
	defer body.stop()
	return readFrames(res, body, ids, each, func(err error) error { return s.lost(ctx, err) })
}

// whole asks for something small and returns it all.
func (s *Shared) whole(ctx context.Context, path string, q url.Values) (b []byte, err error) {
	for try := 1; ; try++ {
		if b, err = s.once(ctx, path, q); try == sharedTries || !errors.Is(err, lab.ErrUnreachable) {
			return b, err
		}
		if err := rest(ctx, try); err != nil {
			return nil, err
		}
	}
}

func (s *Shared) once(ctx context.Context, path string, q url.Values) ([]byte, error) {
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	res, err := s.send(ctx, http.MethodGet, path, q, nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body := newWatched(res.Body, cut)
	defer body.stop()
	b, err := io.ReadAll(io.LimitReader(body, maxManifest))
	if err != nil {
		return nil, s.lost(ctx, err)
	}
	return b, nil
}

func (s *Shared) send(ctx context.Context, method, path string, q url.Values, body []byte) (*http.Response, error) {
	return ask(ctx, &s.http, method, s.base+path+"?"+q.Encode(), bytes.NewReader(body), s.lost)
}

// lost says why there was no answer: the caller's own cancel, or the share is gone, or is another. It never shows the token.
func (s *Shared) lost(ctx context.Context, err error) error {
	host, _, _ := strings.Cut(s.base[strings.Index(s.base, "//")+2:], "/")
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	switch {
	case errors.Is(err, errOther):
		return fmt.Errorf("%s: %w; carte image serve prints the address that is good now: %w", host, errOther, lab.ErrDenied)
	case errors.Is(context.Cause(ctx), errStill):
		err = errStill
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("%s does not answer (%v); does carte image serve still run there? %w", host, err, lab.ErrUnreachable)
}

var errStill = errors.New("nothing came for a while")

// watched is a body that must not stand still while it is waited for.
type watched struct {
	r     io.Reader
	timer *time.Timer
}

func newWatched(r io.Reader, cut func(error)) watched {
	return watched{r, time.AfterFunc(shareStill, func() { cut(errStill) })}
}

func (w watched) Read(p []byte) (int, error) {
	w.timer.Reset(shareStill)
	defer w.timer.Stop()
	return w.r.Read(p)
}

func (w watched) stop() { w.timer.Stop() }

// rest waits before the next try.
func rest(ctx context.Context, try int) error {
	select {
	case <-time.After(time.Duration(try) * 250 * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
