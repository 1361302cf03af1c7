package lab

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// TakeStack takes in a stack of another lab with the versions that it runs, under their numbers, and the kinds of their own
// that these have: all of it, or nothing. What is here already, the same, stays as it is.
type TakeStack struct {
	Versions []AddVersion // each with its Number; Parent is what it was there
	Kinds    []Kind       // of Versions, that not every lab has
	Stack    Stack        // pinned to them
}

// maxTaken is the largest number that a version of another lab may have: there must be room for those that follow.
const maxTaken = 1 << 30

func (v TakeStack) decide(d *draft) error {
	if err := v.Head().decide(d); err != nil {
		return err
	}
	if have, ok := d.Stacks[v.Stack.Name]; ok {
		fresh := v.Stack
		fresh.Since = have.Since
		if fmt.Sprintf("%+v", fresh) == fmt.Sprintf("%+v", have) {
			return nil
		}
		return fmt.Errorf("stack %s is there already and is another; --as NAME takes this one under another name, or carte stack rm %s takes the other away: %w", have.Name, have.Name, ErrBusy)
	}
	return PutStack{Stack: v.Stack}.decide(d)
}

// Head is what can be taken, or refused, before the stack is known: kinds and versions.
func (v TakeStack) Head() Verb { return takeHead{v.Versions, v.Kinds} }

type takeHead struct {
	versions []AddVersion
	kinds    []Kind
}

func (v takeHead) decide(d *draft) error {
	for _, k := range v.kinds {
		if !slices.ContainsFunc(v.versions, func(x AddVersion) bool { return x.Kind == k.Name }) {
			return fmt.Errorf("kind %s: no image of the bundle is of it: %w", k.Name, ErrInvalid)
		}
		if err := d.takeKind(k); err != nil {
			return err
		}
	}
	for _, x := range v.versions {
		if x.Number < 1 || x.Number > maxTaken {
			return fmt.Errorf("image %s: %d is no number of a version: %w", x.Image, x.Number, ErrInvalid)
		}
		k, err := d.KindOf(x.Kind)
		if err != nil {
			return fmt.Errorf("image %s is of kind %q, and the bundle does not say what that is; a [[kind]] of that name in this lab's kinds.toml does: %w", x.Image, x.Kind, ErrInvalid)
		}
		if why := d.clash(x); why != "" {
			return k.broken(ClauseVersioned, "%s; --rename %s=NAME takes the bundle's under another name, --prefix WORD- all that are others here", why, x.Image)
		}
		switch im := d.Images[x.Image]; {
		case im.Dies.After(d.at):
			x.Dies = im.Dies // it is here, and stays as it is
		case !x.Dies.IsZero() && !x.Dies.After(d.at):
			return k.broken(ClauseLifetime, "image %s of the bundle died at %s; the stack can be taken with it no more, only be exported without it", x.Image, x.Dies.Format(time.RFC3339))
		}
		if err := x.decide(d); err != nil {
			return err
		}
	}
	return nil
}

// takeKind adds a kind of another lab, or finds it here.
func (d *draft) takeKind(k Kind) error {
	have, err := d.KindOf(k.Name)
	if err == nil {
		if have == k {
			return nil
		}
		return fmt.Errorf("kind %s is here with other clauses (%s); --kind %s=NAME takes the bundle's kind under another name, or as one that has its clauses: %w", k.Name, have.against(k), k.Name, ErrRefused)
	}
	own := append(slices.Clone(d.OwnKinds), k)
	if err := CheckKinds(own); err != nil {
		return err
	}
	d.put(OwnKinds(own))
	d.fact(0, 0, "kind %s: it came with a bundle", k.Name)
	return nil
}

// against says in which clauses a kind differs from one of the same name in a bundle.
func (k Kind) against(o Kind) string {
	var all []string
	say := func(clause string, here, there any) {
		if here != there {
			all = append(all, fmt.Sprintf("%s: %v here, %v in the bundle", clause, here, there))
		}
	}
	yes := map[bool]string{true: "yes", false: "no"}
	say(ClauseVersioned, yes[k.Versioned], yes[o.Versioned])
	say("checksummed", yes[k.Checksummed], yes[o.Checksummed])
	say(ClauseJoins, yes[k.Joins], yes[o.Joins])
	say(ClauseUpdates, yes[k.Updates], yes[o.Updates])
	say(ClauseShared, yes[k.Shared], yes[o.Shared])
	say(ClauseWritten, k.WrittenBack, o.WrittenBack)
	say(ClauseLifetime, or(k.Lifetime, "until removed"), or(o.Lifetime, "until removed"))
	return strings.Join(all, "; ")
}

// clash says why an image of a bundle cannot come under its name; empty: it can.
func (s Snapshot) clash(x AddVersion) string {
	im, ok := s.Images[x.Image]
	have, there := s.Versions[x.Ref().String()]
	switch {
	case !ok:
	case im.Kind != x.Kind:
		return fmt.Sprintf("image %s is of kind %s here and of kind %s in the bundle", x.Image, im.Kind, x.Kind)
	case im.Form != x.Form:
		return fmt.Sprintf("image %s has the form %s here and %s in the bundle", x.Image, im.Form, x.Form)
	case there && have.Root != x.Root:
		return fmt.Sprintf("%s is here already and has other bytes; a version is never overwritten", x.Ref())
	case there && !have.same(x.Version):
		return fmt.Sprintf("%s is here already with the same bytes, and with another place, kernel line or other clauses", x.Ref())
	}
	return ""
}

// TakeAs says under which names the content of a bundle is taken. The zero value: under its own.
type TakeAs struct {
	Stack  string            `json:"stack,omitempty"`  // what the stack is called here
	Images map[string]string `json:"images,omitempty"` // what images are called here, by their names in the bundle
	Prefix string            `json:"prefix,omitempty"` // put before the name of an image that is something else here, and not in Images
	Kinds  map[string]string `json:"kinds,omitempty"`  // what kinds are called here, by their names in the bundle
}

// A Renamed is something of a bundle that has another name here.
type Renamed struct {
	What string `json:"what"` // stack, image or kind
	Was  string `json:"was"`
	Is   string `json:"is"`
}

// Taken is what became of a bundle.
type Taken struct {
	Changed
	Kinds   []Kind    `json:"kinds,omitempty"` // that this lab did not have
	Renamed []Renamed `json:"renamed,omitempty"`
}

// Names lists what has another name here than in a bundle: v has its kinds and versions, and the name of its stack.
func (s Snapshot) Names(v TakeStack, as TakeAs) (all []Renamed, err error) {
	images, kinds := map[string]bool{}, map[string]bool{}
	for _, k := range v.Kinds {
		kinds[k.Name] = true
	}
	for _, x := range v.Versions {
		images[x.Image] = true
	}
	err = errors.Join(inBundle("image", as.Images, images), inBundle("kind of its own", as.Kinds, kinds))
	if err != nil {
		return nil, err
	}
	add := func(what, was, is string) {
		if is != "" && is != was {
			all = append(all, Renamed{what, was, is})
			err = errors.Join(err, checkName(what, is))
		}
	}
	add("stack", v.Stack.Name, as.Stack)
	for _, k := range v.Kinds {
		add("kind", k.Name, as.Kinds[k.Name])
	}
	under := v.Under(all)
	taken := map[string]string{} // by what they are called here
	for i, x := range v.Versions {
		is := or(as.Images[x.Image], x.Image)
		if as.Images[x.Image] == "" && as.Prefix != "" && s.clash(under.Versions[i]) != "" {
			is = as.Prefix + x.Image
		}
		if other, twice := taken[is]; twice {
			err = errors.Join(err, fmt.Errorf("%s and %s of the bundle would both be image %s here: %w", other, x.Image, is, ErrInvalid))
		}
		taken[is] = x.Image
		add("image", x.Image, is)
	}
	return all, err
}

// inBundle refuses names that a bundle does not have.
func inBundle(what string, asked map[string]string, has map[string]bool) error {
	for _, name := range slices.Sorted(maps.Keys(asked)) {
		if !has[name] {
			return fmt.Errorf("the bundle has no %s called %q%s: %w", what, name, among("; it has ", slices.Sorted(maps.Keys(has))), ErrInvalid)
		}
	}
	return nil
}

// Under is v with other names.
func (v TakeStack) Under(all []Renamed) TakeStack {
	is := func(what, was string) string {
		for _, r := range all {
			if r.What == what && r.Was == was {
				return r.Is
			}
		}
		return was
	}
	v.Versions, v.Kinds, v.Stack.Layers, v.Stack.Keep = slices.Clone(v.Versions), slices.Clone(v.Kinds), slices.Clone(v.Stack.Layers), slices.Clone(v.Stack.Keep)
	for i := range v.Kinds {
		v.Kinds[i].Name = is("kind", v.Kinds[i].Name)
	}
	for i := range v.Versions {
		v.Versions[i].Image, v.Versions[i].Kind = is("image", v.Versions[i].Image), is("kind", v.Versions[i].Kind)
	}
	v.Stack.Name = is("stack", v.Stack.Name)
	for i := range v.Stack.Layers {
		v.Stack.Layers[i].Name = is("image", v.Stack.Layers[i].Name)
	}
	for i := range v.Stack.Keep {
		v.Stack.Keep[i] = is("image", v.Stack.Keep[i])
	}
	return v
}
