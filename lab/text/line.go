package text

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"carte/lab"
)

// At adds to an error about a key of a stack the line in which its text has that key. Other errors stay as they are.
func At(b []byte, err error) error {
	var of *lab.StackError
	if !errors.As(err, &of) {
		return err
	}
	if on := onLine(b, of.Key); on != "" {
		return fmt.Errorf("%s%w", on, err)
	}
	return err
}

// onLine is "line 7: " for a key such as start, layers[1], asks.lazy or files[0].mode; empty where the text does not have it.
// What is part of a key that is there, and not found, is on that one's line.
func onLine(b []byte, key string) string {
	lines := lines(b)
	for {
		if n, ok := lines[key]; ok {
			return fmt.Sprintf("line %d: ", n)
		}
		cut := strings.LastIndexAny(key, ".[")
		if cut < 0 {
			return ""
		}
		key = key[:cut]
	}
}

// lines finds the line of every key and of every value in a list, as far as the text can be read.
func lines(b []byte) map[string]int {
	var p unstable.Parser
	p.Reset(b)
	found := map[string]int{}
	table, tables := "", map[string]int{}
	for p.NextExpression() {
		e := p.Expression()
		name, line := "", 0
		for it := e.Key(); it.Next(); {
			if name != "" {
				name += "."
			} else {
				line = p.Shape(it.Node().Raw).Start.Line
			}
			name += string(it.Node().Data)
		}
		switch e.Kind {
		case unstable.Table:
			table = name
			found[name] = line
		case unstable.ArrayTable:
			table = fmt.Sprintf("%s[%d]", name, tables[name])
			tables[name]++
			found[table] = line
		case unstable.KeyValue:
			if table != "" {
				name = table + "." + name
			}
			found[name] = line
			inValue(&p, found, name, e.Value())
		}
	}
	return found
}

// inValue finds what is inside a list or an inline table.
func inValue(p *unstable.Parser, found map[string]int, name string, v *unstable.Node) {
	switch v.Kind {
	case unstable.Array:
		i := 0
		for it := v.Children(); it.Next(); i++ {
			if n := it.Node(); n.Raw.Length > 0 {
				found[fmt.Sprintf("%s[%d]", name, i)] = p.Shape(n.Raw).Start.Line
			}
		}
	case unstable.InlineTable:
		for it := v.Children(); it.Next(); {
			for key := it.Node().Key(); key.Next(); {
				found[name+"."+string(key.Node().Data)] = p.Shape(key.Node().Raw).Start.Line
				break
			}
		}
	}
}
