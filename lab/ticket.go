package lab

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"carte/lab/chunk"
)

// token is what an agent's command line carries: machine, ticket, and a seal that only this lab can make.
func token(secret []byte, machine int64, t Ticket) string {
	head := fmt.Sprintf("%d.%d", machine, t.Number)
	mac := hmac.New(sha256.New, secret)
	fmt.Fprintf(mac, "carte ticket %s", head) // not its boot: an agent that waits is given one later, and may still repeat its claim
	return head + "." + hex.EncodeToString(mac.Sum(nil)[:16])
}

// machineOf reads whose token it says it is. Nothing is proven by that.
func machineOf(token string) (machine, number int64, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0, 0, false
	}
	machine, err1 := strconv.ParseInt(parts[0], 10, 64)
	number, err2 := strconv.ParseInt(parts[1], 10, 64)
	return machine, number, err1 == nil && err2 == nil
}

// issue makes a new ticket for the machine unless the present one is for the same boot and nobody has claimed it: then
// the same script can be served again, for iPXE retries.
func (d *draft) issue(machine, boot int64) Ticket {
	m := d.Machines[machine]
	if m.Ticket.Number == 0 || m.Ticket.Key != "" || m.Ticket.Boot != boot {
		m.Ticket = Ticket{Number: m.Ticket.Number + 1, Boot: boot, At: d.at}
		d.put(m)
	}
	return m.Ticket
}

// voidTicket ends the right of whatever agent runs on the machine.
func (d *draft) voidTicket(machine int64) {
	m, ok := d.Machines[machine]
	if !ok {
		return
	}
	m.Ticket = Ticket{Number: m.Ticket.Number + 1, At: d.at}
	d.put(m)
	live := d.live(machine)
	live.Agent = false
	d.put(live)
}

// redeem checks a claim's token and fixes its key. A claim that is repeated with the same key is the same claim.
func (d *draft) redeem(secret []byte, c Claim) (Machine, error) {
	id, number, ok := machineOf(c.Token)
	m, known := d.Machines[id]
	if !ok || !known {
		return Machine{}, fmt.Errorf("this token is none of this lab's: %w", ErrDenied)
	}
	if number != m.Ticket.Number {
		return Machine{}, fmt.Errorf("the token of %s was replaced by a later one: %w", m.Label(), ErrDenied)
	}
	if !hmac.Equal([]byte(token(secret, m.ID, m.Ticket)), []byte(c.Token)) {
		return Machine{}, fmt.Errorf("the token is not one that this lab gave to %s: %w", m.Label(), ErrDenied)
	}
	if raw, err := hex.DecodeString(c.Key); err != nil || len(raw) != 32 {
		return Machine{}, fmt.Errorf("the agent's key is not 32 bytes in hex: %w", ErrInvalid)
	}
	key := keyHash(c.Key)
	if m.Ticket.Key != "" && subtle.ConstantTimeCompare([]byte(m.Ticket.Key), []byte(key)) != 1 {
		return Machine{}, fmt.Errorf("the token of %s was used already: %w", m.Label(), ErrDenied)
	}
	m.Ticket.Key = key
	return m, nil
}

func keyHash(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// byKey returns the machine whose claimed ticket has that key.
func (s Snapshot) byKey(key string) (Machine, error) {
	want := []byte(keyHash(key))
	for _, m := range s.Machines {
		if m.Ticket.Key != "" && subtle.ConstantTimeCompare([]byte(m.Ticket.Key), want) == 1 {
			return m, nil
		}
	}
	return Machine{}, fmt.Errorf("this key is no longer, or never was, an agent's: %w", ErrDenied)
}

// keyed returns the lab as it is now, and the machine whose agent or shim has that key.
func (l *Lab) keyed(ctx context.Context, key string) (s Snapshot, m Machine, err error) {
	if s, err = l.Watch(ctx, 0); err == nil {
		m, err = s.byKey(key)
	}
	return s, m, err
}

// Allowed returns the roots that an agent's key gives the right to read: those of the boot it claimed, while that boot is
// being worked on, and of what its disk held before; then those of its lazy layers, for as long as the machine is not started
// anew.
func (l *Lab) Allowed(ctx context.Context, key string) (roots []chunk.ID, err error) {
	s, m, err := l.keyed(ctx, key)
	if err != nil {
		return nil, err
	}
	b, ok := s.Active(m.ID)
	if started := s.Boots[m.Ticket.Boot]; m.Ticket.Boot != 0 && started.Plan.Gives(Lazy) && (started.State == Handover || started.State == Running || started.State.Final()) {
		for _, l := range started.Plan.Layers { // its system runs from what arrives, also when the boot counts as over
			if started.Plan.lazy(l) {
				roots = append(roots, l.Root)
			}
		}
		return roots, nil
	}
	if !ok || b.State != Working || m.Ticket.Boot != b.ID {
		return nil, fmt.Errorf("%s has no boot that it works on: %w", m.Label(), ErrDenied)
	}
	if b.Plan.Capture != nil {
		if v, _, ok := s.baseOf(m, b); ok {
			roots = append(roots, v.Root)
		}
		return roots, nil
	}
	for _, l := range b.Plan.Layers {
		roots = append(roots, l.Root)
	}
	for _, w := range s.had(m, b) {
		roots = append(roots, w.Root)
	}
	return roots, nil
}
