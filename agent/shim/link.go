package shim

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"carte/lab"
)

const (
	stall  = 20 * time.Second // how long a server may take nothing of what it is sent
	answer = 10 * time.Minute // and how long it may work on what it was sent: a new version is hashed and written
)

// errAway is wrapped by errors that may pass by themselves: the server could not be reached, was cut off, or is in trouble.
var errAway = errors.New("the server is away")

// A link asks the server. Each call but once is repeated, with pauses that grow, until it is answered or its context ends.
type link struct {
	base, key, token string
	http             *http.Client
	pause            time.Duration // the first between two tries; it grows to 20 of them
	heard            atomic.Bool   // the server has answered once
}

func newLink(t Task, o Options) (*link, error) {
	u, err := url.Parse(t.Server)
	if err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && o.Plain) {
		return nil, fmt.Errorf("server %q is not https://ADDRESS:PORT: %w", t.Server, lab.ErrInvalid)
	}
	l := &link{base: strings.TrimRight(t.Server, "/"), key: t.Key, token: t.Token, http: o.HTTP, pause: o.Interval / 4}
	if l.key == "" {
		raw := make([]byte, 32)
		rand.Read(raw) // never fails; see crypto/rand
		l.key = hex.EncodeToString(raw)
	}
	if l.http != nil {
		return l, nil
	}
	config, err := Pinned(t.Pin)
	if err != nil && u.Scheme == "https" {
		return nil, err
	}
	l.http = &http.Client{
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 10 * time.Second}).DialContext,
			TLSClientConfig:     config,
			TLSHandshakeTimeout: 15 * time.Second,
			DisableCompression:  true,
			IdleConnTimeout:     time.Minute,

			ExpectContinueTimeout: 5 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return l, nil
}

// Pinned trusts the one certificate whose SHA-256 is pin, 64 hexadecimal digits, and nothing else: no authority, no name, no date.
// The machine's clock may be wrong, and it has never seen an authority.
func Pinned(pin string) (*tls.Config, error) {
	want, err := hex.DecodeString(pin)
	if err != nil || len(want) != sha256.Size {
		return nil, fmt.Errorf("%s=%q is not a SHA-256 in hexadecimal digits: %w", lab.ArgPin, pin, lab.ErrInvalid)
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection does it, on every handshake
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return errors.New("the server showed no certificate")
			}
			got := sha256.Sum256(s.PeerCertificates[0].Raw)
			if subtle.ConstantTimeCompare(got[:], want) != 1 {
				return errors.New("who answers is not who this machine was told of: another certificate")
			}
			return nil
		},
	}, nil
}

// claim redeems the token. The server keeps what it knows of the machine.
func (l *link) claim(ctx context.Context) (o lab.Orders, err error) {
	err = l.patiently(ctx, func() error {
		return l.message(ctx, lab.PathClaim, lab.Claim{Token: l.token, Key: l.key}, &o)
	})
	if err != nil {
		return o, fmt.Errorf("claim: %w", err)
	}
	return o, nil
}

// message says something short, once.
func (l *link) message(ctx context.Context, path string, what, reply any) error {
	body, err := json.Marshal(what)
	if err != nil {
		return err
	}
	return l.once(ctx, path, bytes.NewReader(body), stall, reply)
}

// patiently repeats once until it succeeds, fails for good, or ctx ends.
func (l *link) patiently(ctx context.Context, once func() error) error {
	for pause := l.pause; ; pause = min(2*pause, 20*l.pause) {
		err := once()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !errors.Is(err, errAway) {
			return err
		}
		if err := sleep(ctx, pause/2+mrand.N(pause)); err != nil {
			return err
		}
	}
}

// once posts a body of any length and reads the reply, unless that is nil. An answer that refuses becomes an error of its
// kind.
func (l *link) once(ctx context.Context, path string, body io.Reader, wait time.Duration, reply any) error {
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	watchdog := time.AfterFunc(stall, cut)
	defer watchdog.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.base+path, io.NopCloser(flowing{body, watchdog, wait}))
	if err != nil {
		return err
	}
	if b, ok := body.(*bytes.Reader); ok {
		req.ContentLength = int64(b.Len())
	} else {
		req.Header.Set("Expect", "100-continue") // a refusal comes before anything is sent
	}
	if path != lab.PathClaim {
		req.Header.Set("Authorization", "Bearer "+l.key)
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %w", errAway, err)
	}
	defer resp.Body.Close()
	l.heard.Store(true)
	b, err := io.ReadAll(io.LimitReader(resp.Body, lab.MaxMessage))
	switch {
	case resp.StatusCode != http.StatusOK:
		return refusal(resp, b)
	case err != nil:
		return fmt.Errorf("%w: %w", errAway, err)
	case reply == nil:
		return nil
	}
	if err := json.Unmarshal(b, reply); err != nil {
		return fmt.Errorf("%w: its reply is cut off or not JSON: %w", errAway, err)
	}
	return nil
}

// flowing keeps the watchdog quiet as long as the server takes bytes; at the end of them it may take its time.
type flowing struct {
	r        io.Reader
	watchdog *time.Timer
	wait     time.Duration
}

func (f flowing) Read(p []byte) (n int, err error) {
	if n, err = f.r.Read(p); err != nil {
		f.watchdog.Reset(f.wait)
	} else {
		f.watchdog.Reset(stall)
	}
	return n, err
}

// refusal turns an answer that is not 200 into an error of the kind that it stands for.
func refusal(resp *http.Response, body []byte) error {
	words := strings.TrimSpace(string(body[:min(len(body), 4<<10)]))
	var said struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &said) == nil && said.Error.Message != "" {
		words = said.Error.Message
	}
	if words == "" {
		words = resp.Status
	}
	for _, f := range lab.Failings {
		if f.HTTP == resp.StatusCode && f.HTTP < 499 {
			return fmt.Errorf("%s: %w", strings.TrimSuffix(words, ": "+f.Kind.Error()), f.Kind)
		}
	}
	return fmt.Errorf("%w: %s", errAway, words)
}

// sleep waits, or returns the cause of ctx's end.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
