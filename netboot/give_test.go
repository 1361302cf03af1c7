package netboot

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

// Only an agent gives, only what is asked for is taken, and no more than what one request may bring.
func TestAgentsGive(t *testing.T) {
	f := newFlight(t)
	a := f.agent()
	a.key = strings.Repeat("01", 32)
	a.want(200, "", "POST", lab.PathClaim, f.claimOf("vm-one", a.key))
	frame := func(raw string) ([]byte, chunk.ID) {
		var b bytes.Buffer
		id := chunk.Sum([]byte(raw))
		if err := chunk.WriteFrame(&b, id, chunk.Pack(nil, []byte(raw))); err != nil {
			t.Fatal(err)
		}
		return b.Bytes(), id
	}
	wanted, id := frame("lost")
	other, _ := frame("of no use")
	a.want(403, "takes no chunks", "POST", lab.PathGive, wanted)

	var got []chunk.ID
	f.server = start(t, Config{Lab: f.lab, Chunks: f.store, Mend: func(next func() (chunk.ID, []byte, error)) error {
		for {
			id, stored, err := next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			if _, err := chunk.UnpackAny(nil, stored, id); err != nil {
				return err
			}
			got = append(got, id)
		}
	}})
	key, a := a.key, f.agent()
	a.want(401, "E-DENIED", "POST", lab.PathGive, wanted)
	a.key = strings.Repeat("02", 32)
	a.want(401, "E-DENIED", "POST", lab.PathGive, wanted)
	a.key = key
	a.want(200, "", "POST", lab.PathGive, wanted)
	if len(got) > 0 {
		t.Errorf("%v was taken, and nobody asked for it", got)
	}
	f.lab.Want([]chunk.ID{id})
	a.want(200, id.String(), "POST", lab.PathReport, mustJSON(lab.Report{Boot: 1, Rung: lab.RungHash}))
	a.want(200, "", "POST", lab.PathGive, append(other, wanted...))
	if len(got) != 1 || got[0] != id {
		t.Errorf("taken were %v, want %v", got, id)
	}
	a.want(400, "E-INVALID", "POST", lab.PathGive, wanted[:len(wanted)-1])
	a.want(400, "more than", "POST", lab.PathGive, bytes.Repeat(other, 1+lab.MaxWanted*(chunk.FrameHeader+chunk.MaxStored)/len(other)))
	f.lab.Unwant([]chunk.ID{id})
	a.want(200, "{}", "POST", lab.PathReport, mustJSON(lab.Report{Boot: 1, Rung: lab.RungHash}))
}
