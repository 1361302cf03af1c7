package lab

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The words in braces of a stack: parameters, and what a machine is called.

// maxParam is the most bytes that a parameter's value has.
const maxParam = 256

// fillParams puts a boot's values in the place of a stack's.
func fillParams(have, set map[string]string) (map[string]string, error) {
	all := maps.Clone(have)
	for _, name := range slices.Sorted(maps.Keys(set)) {
		if _, ok := have[name]; !ok {
			return nil, fmt.Errorf("it has no parameter %q%s: %w", name, among("; it has ", slices.Sorted(maps.Keys(have))), ErrInvalid)
		}
		all[name] = set[name]
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := errors.Join(checkName("parameter", name), checkParam(name, all[name])); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func checkParam(name, value string) error {
	if len(value) > maxParam || strings.ContainsAny(value, " \t\"{}") || firstControl(value) >= 0 {
		return fmt.Errorf("parameter %s: %.40q has more than %d bytes, or a blank, a quote or a brace in it: %w", name, value, maxParam, ErrInvalid)
	}
	return nil
}

// expand fills in {name}. A name that is neither a parameter nor a value is an error; {{ is a brace.
func expand(text string, params, values map[string]string) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, "{")
		b.WriteString(before)
		if !found {
			return b.String(), nil
		}
		if strings.HasPrefix(rest, "{") {
			b.WriteByte('{')
			text = rest[1:]
			continue
		}
		name, after, closed := strings.Cut(rest, "}")
		value, ok := params[name]
		if !ok {
			value, ok = values[name]
		}
		if !closed || !ok {
			names := append(slices.Sorted(maps.Keys(params)), slices.Sorted(maps.Keys(values))...)
			return "", fmt.Errorf("{%.20s} is no parameter%s; write {{ for a brace: %w", name, among("; there are ", names), ErrInvalid)
		}
		b.WriteString(value)
		text = after
	}
}

// values are what a rendered file may say of its machine.
func (m Machine) values() map[string]string {
	v := map[string]string{"machine": m.Label(), "mac": ""}
	if len(m.MACs) > 0 {
		v["mac"] = string(m.MACs[0])
	}
	return v
}
