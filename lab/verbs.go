package lab

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
)

// A Verb is something that a person, or a script of theirs, says to the lab. Verbs are plain values, so that they cross
// the unix socket as they are.
type Verb interface{ decide(*draft) error }

// verbs is the table of what people can say. Nothing that machines may say is in it.
var verbs = map[string]Verb{
	"machine.add":    AddMachine{},
	"machine.adopt":  Adopt{},
	"machine.ignore": Ignore{},
	"machine.set":    SetMachine{},
	"machine.arm":    ArmDisk{},
	"machine.forget": Forget{},
	"machine.power":  PowerMachine{},
	"image.rm":       RemoveImage{},
	"image.badge":    PutBadge{},
	"image.tag":      TagImage{},
	"image.rollback": RollbackImage{},
	"stack.new":      PutStack{},
	"stack.rm":       RemoveStack{},
	"boot.queue":     Queue{},
	"boot.capture":   QueueCapture{},
	"boot.repair":    QueueRepair{},
	"boot.stop":      Stop{},
	"boot.took":      TookOut{},
	"boot.forget":    ForgetOut{},
	"boot.retry":     Retry{},
	"queue.mv":       MoveBoot{},
}

// VerbNames lists the words of the table.
func VerbNames() []string { return slices.Sorted(maps.Keys(verbs)) }

// VerbName is the word for a verb; empty for one that people cannot say.
func VerbName(v Verb) string {
	for name, x := range verbs {
		if reflect.TypeOf(x) == reflect.TypeOf(v) {
			return name
		}
	}
	return ""
}

// ParseVerb reads a verb from its word and its JSON. Unknown fields are errors.
func ParseVerb(name string, text []byte) (Verb, error) {
	proto, ok := verbs[name]
	if !ok {
		return nil, fmt.Errorf("verb %q: %w%s", name, ErrNotFound, among("; there are ", VerbNames()))
	}
	v := reflect.New(reflect.TypeOf(proto))
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v.Interface()); err != nil {
		return nil, fmt.Errorf("verb %s: %v: %w", name, err, ErrInvalid)
	}
	return v.Elem().Interface().(Verb), nil
}

// Changed is what a verb changed, sorted by kind of row, in the order of the changes; the last state of a row that
// changed twice.
type Changed struct {
	Machines []Machine `json:"machines,omitempty"`
	Images   []Image   `json:"images,omitempty"`
	Versions []Version `json:"versions,omitempty"`
	Stacks   []Stack   `json:"stacks,omitempty"`
	Boots    []Boot    `json:"boots,omitempty"`
	Gone     []Gone    `json:"gone,omitempty"`
}

func changedBy(changes []Change) (c Changed) {
	for _, x := range changes {
		switch x := x.(type) {
		case Machine:
			c.Machines = replace(c.Machines, x, func(a Machine) bool { return a.ID == x.ID })
		case Image:
			c.Images = replace(c.Images, x, func(a Image) bool { return a.Name == x.Name })
		case Version:
			c.Versions = append(c.Versions, x)
		case Stack:
			c.Stacks = append(c.Stacks, x)
		case Boot:
			c.Boots = replace(c.Boots, x, func(a Boot) bool { return a.ID == x.ID })
		case Gone:
			c.Gone = append(c.Gone, x)
		}
	}
	return c
}

func replace[T any](s []T, x T, same func(T) bool) []T {
	if i := slices.IndexFunc(s, same); i >= 0 {
		s[i] = x
		return s
	}
	return append(s, x)
}
