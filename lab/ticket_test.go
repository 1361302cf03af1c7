package lab

import (
	"strings"
	"testing"
)

func TestTickets(t *testing.T) {
	b := newBench(t)
	id := b.queue("vm", "deb")
	s := b.script(vmMAC)
	if s.Do != ScriptAgent || s.Boot != id {
		t.Fatalf("%+v", s)
	}
	if again := b.script(vmMAC); again.Token != s.Token {
		t.Error("the same script, asked for twice, has two tokens: iPXE retries")
	}
	other := b.queue("metal", "deb")
	sm := b.script(metalMAC)
	for what, token := range map[string]string{
		"nothing": "", "words": "a.b.c", "no seal": "1.1.", "other machine's seal": s.Token[:strings.LastIndex(s.Token, ".")] + sm.Token[strings.LastIndex(sm.Token, "."):],
		"a machine that does not exist": "99" + s.Token[1:], "a later number": "1.9" + s.Token[3:], "a negative one": "-1.-1.00", "huge": "99999999999999999999.1.00",
	} {
		_, err := b.tryClaim(token, 1, usual)
		wantError(t, what, err, ErrDenied)
	}
	for _, key := range []string{"", "00", strings.Repeat("g", 64), strings.Repeat("0", 66)} {
		_, err := b.Claim(t.Context(), Claim{Token: s.Token, Key: key})
		wantError(t, "key "+key, err, ErrInvalid, "32 bytes")
	}
	b.in(id, Starting)
	first := b.claim(s, 1, usual)
	if first.Do != DoBoot || first.Boot != id || len(first.Writes) != 1 || first.Writes[0].Offset != 0 {
		t.Errorf("orders %+v", first)
	}
	if again := b.claim(s, 1, usual); again.Boot != id || again.Do != DoBoot {
		t.Errorf("the same claim once more: %+v", again)
	}
	_, err := b.tryClaim(s.Token, 2, usual)
	wantError(t, "a replayed token", err, ErrDenied, "used already")
	if _, err := b.Report(t.Context(), agentKey(2), Report{Boot: id}); err == nil {
		t.Error("a key that nobody gave may report")
	}
	b.claim(sm, 3, usual)
	_, err = b.Report(t.Context(), agentKey(3), Report{Boot: id})
	wantError(t, "metal's agent about vm's boot", err, ErrDenied)
	b.in(other, Working)
	b.must(Stop{Boot: id})
	b.report(1, Report{Boot: id, Revoked: true})
	_, err = b.tryClaim(s.Token, 1, usual)
	wantError(t, "a voided token", err, ErrDenied, "later one")
	_, err = b.Report(t.Context(), agentKey(1), Report{Boot: id})
	wantError(t, "a voided key", err, ErrDenied)
}

func TestAllowed(t *testing.T) {
	b := newBench(t)
	id := b.queue("vm", "deb")
	s := b.script(vmMAC)
	_, err := b.Allowed(t.Context(), agentKey(1))
	wantError(t, "before the claim", err, ErrDenied)
	b.claim(s, 1, usual)
	if roots, err := b.Allowed(t.Context(), agentKey(1)); err != nil || len(roots) != 1 || roots[0] != b.boot(id).Plan.Layers[0].Root {
		t.Errorf("while it works: %v, %v", roots, err)
	}
	b.report(1, Report{Boot: id, Rung: RungHandover, Proven: true})
	_, err = b.Allowed(t.Context(), agentKey(1))
	wantError(t, "after the handover", err, ErrDenied)
}

// An agent that waits is given a boot, and the answer to its claim is lost: it repeats the claim, whose token was made before there was a boot.
func TestWaitingAgentRepeatsItsClaim(t *testing.T) {
	b := newBench(t)
	s := b.script(vmMAC)
	if s.Do != ScriptAgent || s.Boot != 0 {
		t.Fatalf("%+v", s)
	}
	id := b.queue("vm", "deb")
	for range 2 {
		if o := b.claim(s, 1, usual); o.Do != DoBoot || o.Boot != id {
			t.Errorf("%+v", o)
		}
	}
	if o := b.report(1, Report{}).Orders; o == nil || o.Boot != id {
		t.Errorf("orders with a report: %+v", o)
	}
}

func TestWaitingAgentGetsOrders(t *testing.T) {
	b := newBench(t)
	if o := b.claim(b.script(vmMAC), 1, usual); o.Do != DoWait {
		t.Fatalf("%+v", o)
	}
	if r := b.report(1, Report{}); r.Orders != nil || r.Revoke != "" {
		t.Errorf("%+v", r)
	}
	id := b.queue("vm", "tree")
	if live := b.now().Live[b.machine("vm").ID]; live.Order != "" {
		t.Errorf("a machine whose agent waits is told to %s", live.Order)
	}
	o := b.report(1, Report{}).Orders
	if o == nil || o.Do != DoBoot || o.Boot != id || o.Start != StartPivot || o.Writes[0].Offset != TreeOffset {
		t.Fatalf("%+v", o)
	}
	b.in(id, Working)
}

// The reply to the report that handed over is lost; the agent says it once more and must not be told to stop.
func TestHandoverTwice(t *testing.T) {
	for _, machine := range []string{"vm", "metal"} {
		for _, stack := range []string{"deb", "tree"} {
			b := newBench(t)
			id := b.queue(machine, stack)
			b.take(id, Working, 1)
			for range 2 {
				if r := b.report(1, Report{Boot: id, Rung: RungHandover, Proven: true}); r.Revoke != "" || r.Orders != nil {
					t.Errorf("%s on %s: %+v", stack, machine, r)
				}
			}
		}
	}
}

func FuzzTokens(f *testing.F) {
	f.Add("1.1.00")
	f.Add("")
	f.Add("-1.9223372036854775807." + strings.Repeat("0", 32))
	m := Machine{ID: 1, Ticket: Ticket{Number: 1}}
	d := &draft{Snapshot: Snapshot{Machines: map[int64]Machine{1: m}}}
	good := token(secret, 1, m.Ticket)
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := d.redeem(secret, Claim{Token: s, Key: agentKey(1)}); err == nil && s != good {
			t.Errorf("%q is taken for %q", s, good)
		}
	})
}
