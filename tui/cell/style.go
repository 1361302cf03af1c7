// Package cell draws text into a grid of terminal cells and turns the grid into one string: exactly so many lines,
// none wider than the grid, whatever was drawn. It knows marks, bars, boxes, colours and their stand-ins for terminals
// without colour or without Unicode. It refuses to know what is drawn: no machine, no key, no program.
package cell

// A Style says how a cell looks. Colours are the terminal's own sixteen. Reverse is added to any of them.
type Style uint8

const (
	Plain Style = iota
	Dim
	Bold
	Green
	Cyan
	Blue
	Magenta
	Yellow // bold: it needs a look
	Red    // bold: it did not work
	styles

	Reverse Style = 0x80
)

// codes are the SGR parameters (ECMA-48, 8.3.117) of a style, with and without colour. Without colour, bold and
// reverse stay: they carry what is selected and what needs a look.
var codes = [styles]struct{ colour, mono string }{
	Plain:   {"", ""},
	Dim:     {";2", ""},
	Bold:    {";1", ";1"},
	Green:   {";32", ""},
	Cyan:    {";36", ""},
	Blue:    {";34", ""},
	Magenta: {";35", ""},
	Yellow:  {";1;33", ";1"},
	Red:     {";1;31", ";1"},
}

// A table holds the whole escape sequence of every style. Each begins with a reset, so that one is enough between two
// cells.
type table [256]string

var inColour, inMono = sequences(false), sequences(true)

func sequences(mono bool) (t table) {
	for s := range styles {
		code := codes[s].colour
		if mono {
			code = codes[s].mono
		}
		t[s] = "\x1b[0" + code + "m"
		t[s|Reverse] = "\x1b[0;7" + code + "m"
	}
	t[Plain] = "\x1b[m"
	return t
}
