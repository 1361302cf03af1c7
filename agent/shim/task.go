package shim

import (
	"encoding/json"
	"fmt"
	"strings"

	"carte/lab"
)

// A Task is all that a shim is told: where its server is, by which right it speaks there, and what it is to do beside the
// user's system.
type Task struct {
	Server string `json:"server"` // base URL of the API, https://ADDRESS:PORT
	Pin    string `json:"pin"`    // SHA-256 of the server's certificate, 64 hexadecimal digits
	Key    string `json:"key,omitempty"`
	Token  string `json:"token,omitempty"` // without a Key: redeemed for one, and for the orders

	Orders lab.Orders `json:"orders"`
	Backs  []Back     `json:"backs,omitempty"`
	Init   string     `json:"init"` // the program that process 1 becomes, as a path in the user's system

	// Note is handed on to whoever writes it into the machine image; empty: it is written already.
	Note string `json:"note,omitempty"`

	// Lazy is handed on to whoever loads layers while the system runs already.
	Lazy json.RawMessage `json:"lazy,omitempty"`

	// Lease is handed on to whoever keeps the address that carte got for the user's system; empty: carte got none.
	Lease json.RawMessage `json:"lease,omitempty"`
}

// A Back is an image whose changes may go back to the server: those that lie in Upper, which is the upper layer of an
// overlay that is mounted at Place in the user's system.
type Back struct {
	Image string `json:"image"`
	Upper string `json:"upper"`
	Place string `json:"place"`
}

// FromCommandLine is the task on a kernel's command line: a server, how it is known, and a token.
func FromCommandLine(line string) (t Task, err error) {
	for _, word := range strings.Fields(line) {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case lab.ArgServer:
			t.Server = value
		case lab.ArgPin:
			t.Pin = value
		case lab.ArgToken:
			t.Token = value
		}
	}
	if t.Server == "" || t.Token == "" {
		return t, fmt.Errorf("the kernel's command line has no %s or no %s; this machine was not started by carte: %w", lab.ArgServer, lab.ArgToken, lab.ErrInvalid)
	}
	return t, nil
}
