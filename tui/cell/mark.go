package cell

// A Mark says in one cell what a thing is like; its colour repeats what the mark and the word beside it say.
type Mark struct {
	Rune  rune
	Style Style
}

// The marks, in the order of the specification (UX 1.3).
var (
	Running = Mark{'●', Green}   // the user's system runs
	Writing = Mark{'▶', Cyan}    // the agent works on the disk
	Booting = Mark{'◐', Blue}    // on the way
	Idle    = Mark{'○', Plain}   // free
	Held    = Mark{'■', Magenta} // a person keeps it
	Warn    = Mark{'▲', Yellow}  // needs a look
	Failed  = Mark{'✗', Red}     // did not work
	Done    = Mark{'✓', Green}   // finished
	Absent  = Mark{'·', Dim}     // not there
	Unknown = Mark{'+', Cyan}    // a new machine
)

// ascii stands in for every other character that carte draws itself. What comes from elsewhere and is not in the table
// becomes a question mark.
var ascii = map[rune]rune{
	'●': '*', '▶': '#', '◐': '~', '○': 'o', '■': '=', '▲': '^', '✗': 'x', '✓': 'v', '·': '.',
	'─': '-', '│': '|', '┌': '+', '┐': '+', '└': '+', '┘': '+', '├': '+', '┤': '+',
	'█': '#', '░': '.', '…': '~', '—': '-', '→': '>', '←': '<', '↑': '^', '↓': 'v', '»': '>',
}

// Plainly returns the character that stands for r where only ASCII can be shown.
func Plainly(r rune) rune {
	if r < 0x80 {
		return r
	}
	if a, ok := ascii[r]; ok {
		return a
	}
	return '?'
}
