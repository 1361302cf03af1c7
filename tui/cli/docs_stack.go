package cli

import (
	"time"

	"carte/lab"
)

type stackDoc struct {
	Name    string            `json:"name"`
	Layers  []lab.Ref         `json:"layers"`
	Cmdline string            `json:"cmdline,omitempty"`
	Params  map[string]string `json:"params,omitempty"`
	Start   lab.Start         `json:"start,omitempty"` // empty: the lab chooses
	Until   lab.Rung          `json:"until,omitempty"`
	Grow    bool              `json:"grow,omitempty"`
	Upper   lab.Upper         `json:"upper,omitempty"`
	Reset   lab.Reset         `json:"reset,omitempty"`
	Asks    lab.Terms         `json:"asks,omitempty"`
	Keep    []string          `json:"keep,omitempty"`
	Files   []lab.TextFile    `json:"files,omitempty"`
	Note    string            `json:"note,omitempty"`
	Plan    *planDoc          `json:"plan,omitempty"` // what it would be just now
	Since   *time.Time        `json:"since,omitempty"`
}

type planDoc struct {
	Digest      string          `json:"digest"`
	Fingerprint string          `json:"fingerprint"` // the same one: the same bytes, on whichever machine
	Form        lab.Form        `json:"form"`
	Start       lab.Start       `json:"start"`
	Images      []lab.Ref       `json:"images"`
	Layers      []lab.PlanLayer `json:"layers"`
	Agreed      []lab.Agreed    `json:"agreed"`
	Cmdline     string          `json:"cmdline,omitempty"`
	Upper       lab.Upper       `json:"upper,omitempty"`
	Reset       lab.Reset       `json:"reset,omitempty"`
	Bytes       int64           `json:"size_bytes"`
}

func stackOf(s lab.Snapshot, st lab.Stack) stackDoc {
	d := stackDoc{
		Name: st.Name, Layers: st.Layers, Cmdline: st.Cmdline, Params: st.Params, Start: st.Start, Until: st.Until, Grow: st.Grow,
		Upper: st.Upper, Reset: st.Reset, Asks: st.Asks, Keep: st.Keep, Files: st.Files, Note: st.Note, Since: stamp(st.Since),
	}
	if p, err := s.Resolve(st.Name); err == nil {
		d.Plan = planOf(p)
	}
	return d
}

func planOf(p lab.Plan) *planDoc {
	d := &planDoc{
		Digest: p.Digest.String(), Fingerprint: p.Fingerprint(), Form: p.Form, Start: p.Start, Images: []lab.Ref{}, Layers: p.Layers,
		Agreed: append([]lab.Agreed{}, p.Agreed...), Cmdline: p.Cmdline, Upper: p.Upper, Reset: p.Reset, Bytes: p.Bytes(),
	}
	for _, l := range p.Layers {
		d.Images = append(d.Images, l.Ref)
	}
	return d
}

// kindDoc is a kind as it is enforced.
type kindDoc struct {
	lab.Kind
	Own bool `json:"own"` // this lab's, and not one that carte comes with
}
