package lab

import "fmt"

// TakeStack takes in a stack of another lab with the versions that it runs, under their numbers: all of it, or nothing. What
// is here already, the same, stays as it is.
type TakeStack struct {
	Versions []AddVersion // each with its Number; Parent is what it was there
	Stack    Stack        // pinned to them
}

// maxTaken is the largest number that a version of another lab may have: there must be room for those that follow.
const maxTaken = 1 << 30

func (v TakeStack) decide(d *draft) error {
	for _, x := range v.Versions {
		if x.Number < 1 || x.Number > maxTaken {
			return fmt.Errorf("image %s: %d is no number of a version: %w", x.Image, x.Number, ErrInvalid)
		}
		if err := x.decide(d); err != nil {
			return err
		}
	}
	if have, ok := d.Stacks[v.Stack.Name]; ok {
		fresh := v.Stack
		fresh.Since = have.Since
		if fmt.Sprintf("%+v", fresh) == fmt.Sprintf("%+v", have) {
			return nil
		}
		return fmt.Errorf("stack %s is there already and is another; carte stack rm %s takes it away: %w", have.Name, have.Name, ErrBusy)
	}
	return PutStack{Stack: v.Stack}.decide(d)
}
