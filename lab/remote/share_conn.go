package remote

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"sync"
	"time"

	"carte/lab"
	"carte/lab/chunk"
)

// ownCertificate makes a certificate that is known by its SHA-256 and by nothing else: its name and dates mean nothing.
func ownCertificate() (cert tls.Certificate, pin []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, nil, fmt.Errorf("make a key: %w", err)
	}
	x := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "carte"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280, 4.1.2.5: no end
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, x, x, key.Public(), key)
	if err != nil {
		return cert, nil, fmt.Errorf("make a certificate: %w", err)
	}
	sum := sha256.Sum256(der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, sum[:], nil
}

// pinnedTo trusts the one certificate whose SHA-256 is pin, in hexadecimal digits, and nothing else.
func pinnedTo(pin string) (*tls.Config, error) {
	want, err := hex.DecodeString(pin)
	if err != nil || len(want) != sha256.Size {
		return nil, fmt.Errorf("behind its # belong the 64 digits that tell the right server from another; copy it whole: %w", lab.ErrInvalid)
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // VerifyConnection does it, on every handshake
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) > 0 {
				got := sha256.Sum256(s.PeerCertificates[0].Raw)
				if subtle.ConstantTimeCompare(got[:], want) == 1 {
					return nil
				}
			}
			return errOther
		},
	}, nil
}

// errOther is told when somebody else answers at the address of a share.
var errOther = errors.New("who answers there is not the carte that printed this address")

// patient accepts no more connections than it has room for; the others wait in the kernel.
type patient struct {
	net.Listener
	room chan struct{}
}

func (p *patient) Accept() (net.Conn, error) {
	p.room <- struct{}{}
	c, err := p.Listener.Accept()
	if err != nil {
		<-p.room
		return nil, err
	}
	return &counted{Conn: c, leave: sync.OnceFunc(func() { <-p.room })}, nil
}

type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// thisHost is a name of this computer that others may know.
func thisHost() string {
	if name, err := os.Hostname(); err == nil && name != "" {
		return name
	}
	return "localhost"
}

func compareIDs(a, b chunk.ID) int { return bytes.Compare(a[:], b[:]) }

// asJSON is for what always has a JSON form.
func asJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return b
}
