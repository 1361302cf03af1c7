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
	"sync"
	"time"

	"carte/lab"
)

// watchEvery is the shortest time between two snapshots: each is the whole lab.
const watchEvery = 50 * time.Millisecond

// Client is the desk of a lab in another process. Its methods may be called from any goroutine.
type Client struct {
	dir  string
	http http.Client

	mu   sync.Mutex
	last time.Time // when a snapshot was last asked for
}

var _ lab.Desk = (*Client)(nil)

// Dial connects to the lab that runs in a state folder. lab.ErrUnreachable: none does.
func Dial(dir string) (*Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	conn, err := connect(ctx, dir)
	if err != nil {
		return nil, err
	}
	first := make(chan net.Conn, 1) // the first request takes the connection that there is
	first <- conn
	c := &Client{dir: dir}
	c.http.Transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			select {
			case conn := <-first:
				return conn, nil
			default:
				return connect(ctx, dir)
			}
		},
		DisableCompression: true,
		MaxIdleConns:       4,
	}
	return c, nil
}

// Close lets go of idle connections.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// Version says what serves the lab.
func (c *Client) Version(ctx context.Context) (v Version, err error) {
	err = c.ask(ctx, http.MethodGet, "/version", nil, nil, &v)
	return v, err
}

// Say carries out one verb.
func (c *Client) Say(ctx context.Context, v lab.Verb) (changed lab.Changed, err error) {
	name := lab.VerbName(v)
	if name == "" {
		return changed, fmt.Errorf("%T cannot be said over a socket: %w", v, lab.ErrInvalid)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return changed, err
	}
	err = c.ask(ctx, http.MethodPost, "/verb/"+name, nil, bytes.NewReader(text), &changed)
	return changed, err
}

// Watch returns the lab as soon as it is newer than revision after; several changes within watchEvery are one.
func (c *Client) Watch(ctx context.Context, after uint64) (s lab.Snapshot, err error) {
	if after > 0 {
		c.mu.Lock()
		wait := watchEvery - time.Since(c.last)
		c.mu.Unlock()
		if wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return s, ctx.Err()
			}
		}
	}
	err = c.ask(ctx, http.MethodGet, "/watch", url.Values{"after": {strconv.FormatUint(after, 10)}}, nil, &s)
	c.mu.Lock()
	c.last = time.Now()
	c.mu.Unlock()
	return s, err
}

// Tail returns lines of the log.
func (c *Client) Tail(ctx context.Context, t lab.Tail) (lines []lab.Line, next, lost int64, err error) {
	var got tailed
	err = c.ask(ctx, http.MethodGet, "/tail", url.Values{
		"machine": {strconv.FormatInt(t.Machine, 10)}, "after": {strconv.FormatInt(t.After, 10)},
		"max": {strconv.Itoa(t.Max)}, "wait": {strconv.FormatBool(t.Wait)},
	}, nil, &got)
	return got.Lines, got.Next, got.Lost, err
}

// Doctor looks at what the lab needs.
func (c *Client) Doctor(ctx context.Context) ([]lab.Finding, error) {
	var got found
	err := c.ask(ctx, http.MethodGet, "/doctor", nil, nil, &got)
	return got.Findings, err
}

// ask sends a request and reads its answer into v.
func (c *Client) ask(ctx context.Context, method, path string, q url.Values, body io.Reader, v any) error {
	res, err := c.send(ctx, method, path, q, body)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(v); err != nil {
		return c.lost(ctx, err)
	}
	// The rest, so that the connection can be used again.
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return c.lost(ctx, err)
	}
	return nil
}

// send sends a request. Any answer but 200 is an error.
func (c *Client) send(ctx context.Context, method, path string, q url.Values, body io.Reader) (*http.Response, error) {
	u := url.URL{Scheme: "http", Host: "carte", Path: path, RawQuery: q.Encode()}
	return ask(ctx, &c.http, method, u.String(), body, c.lost)
}

// ask sends a request. Any answer but 200 is an error; lost says what none at all means.
func ask(ctx context.Context, h *http.Client, method, u string, body io.Reader, lost func(context.Context, error) error) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return nil, err
	}
	res, err := h.Do(req)
	if err != nil {
		return nil, lost(ctx, err)
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		return nil, readError(res)
	}
	return res, nil
}

// lost says why there was no answer: the caller's own cancel, or the lab is gone.
func (c *Client) lost(ctx context.Context, err error) error {
	var is *Error
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &is):
		return is
	case errors.Is(err, lab.ErrUnreachable), errors.Is(err, lab.ErrDenied):
		var u *url.Error
		if errors.As(err, &u) {
			return u.Err
		}
		return err
	}
	return &silent{c.dir, err}
}

// silent is a lab that stopped answering. What the transport says about that is no concern of a person's.
type silent struct {
	dir string
	err error
}

func (s *silent) Error() string {
	return fmt.Sprintf("the lab in %s stopped answering; carte status tells whether it still runs: %v", s.dir, lab.ErrUnreachable)
}
func (s *silent) Unwrap() []error { return []error{lab.ErrUnreachable, s.err} }
