package text

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"carte/lab"
)

// most is the longest text that is read, in bytes: more is no text that somebody wrote.
const most = 8 << 20

// decode reads TOML strictly. The error shows the line, and what it might have said.
func decode(b []byte, into any) error {
	if len(b) > most {
		return fmt.Errorf("it has %d bytes, and %d are the most: %w", len(b), most, lab.ErrInvalid)
	}
	err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(into)
	var strict *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		first := strict.Errors[0]
		row, _ := first.Position()
		return fmt.Errorf("line %d: %q is no word that carte knows here%s:\n%s: %w", row, strings.Join(first.Key(), "."), known(into, first.Key()), strict.String(), lab.ErrInvalid)
	case errors.As(err, &wrong):
		row, column := wrong.Position()
		return fmt.Errorf("line %d, column %d: %v:\n%s: %w", row, column, plain(wrong), wrong.String(), lab.ErrInvalid)
	case err != nil:
		return fmt.Errorf("%v: %w", err, lab.ErrInvalid)
	}
	return nil
}

// mismatch is how the decoder says that a value is of another sort than its word wants, in the words of a Go program.
var mismatch = regexp.MustCompile(`cannot decode TOML (\S+) into .* of type \S*?(\w+)$`)

// plain says in a person's words what is wrong.
func plain(wrong *toml.DecodeError) string {
	said := strings.TrimPrefix(wrong.Error(), "toml: ")
	m := mismatch.FindStringSubmatch(said)
	if m == nil {
		return said
	}
	wants := map[string]string{"string": "text in quotes", "bool": "true or false", "int": "a number", "int64": "a number"}[m[2]]
	if wants == "" {
		wants = "something of another sort"
	}
	return fmt.Sprintf("%q is to be %s, and this is of the sort %s", strings.Join(wrong.Key(), "."), wants, m[1])
}

// known lists the words that there might have been where an unknown one stood.
func known(into any, key toml.Key) string {
	t := reflect.TypeOf(into).Elem()
	for _, word := range key[:len(key)-1] {
		f, ok := field(t, word)
		if !ok {
			return ""
		}
		for t = f.Type; t.Kind() == reflect.Slice || t.Kind() == reflect.Pointer; {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return ""
		}
	}
	var words []string
	for f := range t.Fields() {
		words = append(words, f.Tag.Get("toml"))
	}
	return "; there are " + strings.Join(words, ", ")
}

func field(t reflect.Type, word string) (reflect.StructField, bool) {
	for f := range t.Fields() {
		if f.Tag.Get("toml") == word {
			return f, true
		}
	}
	return reflect.StructField{}, false
}
