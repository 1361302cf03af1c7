package shim

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"carte/agent/wire"
	"carte/lab"
)

// answer is how long a server may work on what it was sent: a new version is hashed and written.
const answer = 10 * time.Minute

// A link asks the server. Each call but once is repeated, with pauses that grow, until it is answered or its context ends.
type link struct {
	base, key, token string
	http             *http.Client
	pause            time.Duration // the first between two tries; it grows to 20 of them
	heard            atomic.Bool   // the server has answered once
}

func newLink(t Task, o Options) (*link, error) {
	base, err := wire.Base(t.Server, o.Plain)
	if err != nil {
		return nil, fmt.Errorf("server %w", err)
	}
	l := &link{base: base, key: cmp.Or(t.Key, wire.Key()), token: t.Token, http: o.HTTP, pause: o.Interval / 4}
	if l.http == nil {
		l.http, err = wire.Client(base, t.Pin, &http.Transport{IdleConnTimeout: time.Minute, ExpectContinueTimeout: 5 * time.Second})
	}
	return l, err
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
	return l.once(ctx, path, bytes.NewReader(body), wire.Stall, reply)
}

// once posts a body of any length and reads the reply, unless that is nil. An answer that refuses becomes an error of its
// kind.
func (l *link) once(ctx context.Context, path string, body io.Reader, wait time.Duration, reply any) error {
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	watchdog := time.AfterFunc(wire.Stall, cut)
	defer watchdog.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.base+path, wire.Sent(body, watchdog, wait))
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
		return wire.Away(err)
	}
	defer resp.Body.Close()
	l.heard.Store(true)
	if resp.StatusCode != http.StatusOK {
		return wire.Refusal(resp.StatusCode, resp.Status, resp.Body)
	}
	return wire.Reply(resp.Body, reply)
}

// patiently repeats once until it succeeds, fails for good, or ctx ends.
func (l *link) patiently(ctx context.Context, once func() error) error {
	return wire.Patiently(ctx, l.pause, 20*l.pause, once, func(error) bool { return false })
}
