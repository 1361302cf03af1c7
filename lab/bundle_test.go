package lab

import (
	"errors"
	"strings"
	"testing"
	"time"

	"carte/lab/chunk"
)

// came is a version as a bundle brings it.
func came(name string, n int, kind string, root byte) AddVersion {
	return AddVersion{Version: Version{Image: name, Number: n, Root: chunk.ID{root}, Bytes: 1}, Kind: kind, Form: FormTree}
}

func TestTakeStack(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	course := Kind{Name: "course", Versioned: true, Shared: true, WrittenBack: "request"}
	temporary := came("temp", 1, "temporary", 9)
	temporary.Dies = now.Add(-time.Hour)
	place := came("tree", 1, "system", 1)
	place.Offers = Terms{Lazy: Required}
	begun := Snapshot{Images: map[string]Image{"tree": {Name: "tree", Kind: "system", Form: FormTree, Latest: 1}},
		Versions: map[string]Version{"tree@1": {Image: "tree", Number: 1, Root: chunk.ID{1}, Bytes: 1}}, Stacks: map[string]Stack{"s": {Name: "s", Layers: []Ref{{"tree", 1}}}}}
	st := Stack{Name: "t", Layers: []Ref{{"tree", 1}}}
	for what, x := range map[string]struct {
		own  []Kind
		v    TakeStack
		kind error
		want string
	}{
		"the same is here":      {nil, TakeStack{Versions: []AddVersion{came("tree", 1, "system", 1)}, Stack: st}, nil, ""},
		"with a kind":           {nil, TakeStack{Versions: []AddVersion{came("task", 1, "course", 2)}, Kinds: []Kind{course}, Stack: Stack{Name: "t", Layers: []Ref{{"task", 1}}}}, nil, ""},
		"the kind is here":      {[]Kind{course}, TakeStack{Versions: []AddVersion{came("task", 1, "course", 2)}, Kinds: []Kind{course}, Stack: Stack{Name: "t", Layers: []Ref{{"task", 1}}}}, nil, ""},
		"a kind of other terms": {[]Kind{{Name: "course", WrittenBack: "never"}}, TakeStack{Versions: []AddVersion{came("task", 1, "course", 2)}, Kinds: []Kind{course}, Stack: st}, ErrRefused, "versioned: no here, yes in the bundle"},
		"carte's own kind":      {nil, TakeStack{Versions: []AddVersion{came("task", 1, "user", 2)}, Kinds: []Kind{{Name: "user", WrittenBack: "never"}}, Stack: st}, ErrRefused, "kind user is here with other clauses"},
		"a kind unknown":        {nil, TakeStack{Versions: []AddVersion{came("task", 1, "course", 2)}, Stack: st}, ErrInvalid, "kinds.toml"},
		"a kind too many":       {nil, TakeStack{Versions: []AddVersion{came("tree", 1, "system", 1)}, Kinds: []Kind{course}, Stack: st}, ErrInvalid, "no image of the bundle is of it"},
		"a kind that is none":   {nil, TakeStack{Versions: []AddVersion{came("task", 1, "course", 2)}, Kinds: []Kind{{Name: "course", WrittenBack: "often"}}, Stack: st}, ErrInvalid, "often"},
		"other bytes":           {nil, TakeStack{Versions: []AddVersion{came("tree", 1, "system", 2)}, Stack: st}, ErrRefused, `clause "versioned"`},
		"another form":          {nil, TakeStack{Versions: []AddVersion{{Version: Version{Image: "tree", Number: 2, Root: chunk.ID{1}, Bytes: 1}, Kind: "system", Form: FormDisk}}, Stack: st}, ErrRefused, "has the form tree here and disk in the bundle"},
		"other clauses":         {nil, TakeStack{Versions: []AddVersion{place}, Stack: st}, ErrRefused, "the same bytes, and with another place"},
		"it died":               {nil, TakeStack{Versions: []AddVersion{temporary}, Stack: st}, ErrRefused, `image temp of the bundle died at 2026-11-21T11:00:00Z`},
		"another stack":         {nil, TakeStack{Versions: []AddVersion{came("tree", 1, "system", 1)}, Stack: Stack{Name: "s", Layers: []Ref{{"tree", 1}}, Note: "x"}}, ErrBusy, "--as NAME"},
	} {
		d := &draft{Snapshot: begun, at: now}
		d.fill()
		d.OwnKinds = x.own
		err := x.v.decide(d)
		if x.kind == nil && (err != nil || d.Stacks["t"].Name == "") || x.kind != nil && (!errors.Is(err, x.kind) || !strings.Contains(err.Error(), x.want)) {
			t.Errorf("%s: %v, want %v, %q", what, err, x.kind, x.want)
		}
		if len(d.OwnKinds) > 1 {
			t.Errorf("%s: kinds %v", what, d.OwnKinds)
		}
	}
}
