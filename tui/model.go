package tui

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"carte/lab"
	"carte/tui/action"
	"carte/tui/cell"
)

// A model is what the screen remembers. Only the program's own goroutine touches it.
type model struct {
	ctx  context.Context
	desk lab.Desk
	feed *feed
	out  io.Writer
	opt  Options
	// spawn runs work that may take a while, and is joined by Run. Work never touches the model: what came of it arrives
	// through the feed.
	group *group
	spawn func(func())
	ready func() // the window's size is known

	now   time.Time
	x     *index // of the newest snapshot; nil until there is one
	gone  error  // why the lab cannot be reached
	tries int
	word  time.Time // of the lab's last word

	at        place
	visited   []place // how one came here from a tab
	lists     map[place]*list
	drafts    map[string]*composing // stacks that are put together, by name
	filters   map[place]filter
	pane      int // 0: the list, 1: the log beside it
	log       journal
	over      overlay // drawn over the screen; it has the keys
	sure      *sure   // waits for a key once more
	command   string  // the shell command of the last action; empty once the cursor or the place is another
	flash     flash
	told      []flash // what the last line said, newest last
	jobs      []*job
	interrupt time.Time // of the first ctrl+c
	past      []string  // what was typed after ':', newest last
	keys      keys
	w, h      int
	grid      cell.Grid
	view      string
	dirty     bool
	sorted    struct {
		x      *index
		at     time.Time
		rows   []machineRow
		alerts []alert
	}
	wantClear  bool
	drawnTimes int // pictures drawn, for tests
}

// A flash is something said in the last line for a while.
type flash struct {
	mark cell.Mark
	text string
	at   time.Time
}

// flashTime is how long the last line says something before it shows the last command again.
const flashTime = 6 * time.Second

// keptTold is how much of what was said can be read again among what needs you.
const keptTold = 50

// An overlay is drawn over the screen and takes the keys.
type overlay interface {
	press(m *model, p press) tea.Cmd
	draw(m *model, g *cell.Grid)
}

func newModel(ctx context.Context, desk lab.Desk, f *feed, out io.Writer, o Options) *model {
	m := &model{
		ctx: ctx, desk: desk, feed: f, out: out, opt: o, now: o.Now(), word: o.Now(),
		at: place{at: action.Machines}, lists: map[place]*list{}, filters: map[place]filter{},
		w: 80, h: 24, dirty: true,
	}
	m.spawn = func(f func()) { m.group.start(f) }
	m.log.reset(1)
	m.grid.ASCII, m.grid.Mono = o.ASCII, o.Mono
	return m
}

// Init implements tea.Model. The lab's first word starts everything.
func (m *model) Init() tea.Cmd { return nil }

// Update changes the model and nothing else.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	m.dirty = true
	m.now = m.opt.Now()
	var cmds []tea.Cmd
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.w, m.h = msg.Width, msg.Height
		m.ready()
	case tea.KeyMsg:
		for _, p := range m.keys.split(msg, m.now) {
			cmds = append(cmds, m.press(p))
		}
	case wakeMsg:
		m.woken(msg)
	case edited:
		m.takeEdited(msg)
	case left:
		m.takeLeft(msg)
	default:
		m.dirty = false
	}
	if m.wantClear {
		m.wantClear = false
		cmds = append(cmds, tea.ClearScreen)
	}
	return m, batch(cmds)
}

// batch joins commands without a goroutine for those that are nil.
func batch(cmds []tea.Cmd) tea.Cmd {
	var real []tea.Cmd
	for _, c := range cmds {
		if c != nil {
			real = append(real, c)
		}
	}
	switch len(real) {
	case 0:
		return nil
	case 1:
		return real[0]
	}
	return tea.Sequence(real...)
}

// woken takes what the lab brought.
func (m *model) woken(msg wakeMsg) {
	m.now = msg.at
	switch {
	case msg.gone != nil:
		m.gone, m.tries = msg.gone, max(m.tries, msg.tries)
	case msg.snap != nil || msg.heard:
		m.gone, m.tries, m.word = nil, 0, m.now
	}
	if msg.snap != nil {
		first := m.x == nil
		m.x = newIndex(*msg.snap, m.x)
		if first && m.opt.Start != "" {
			m.open(m.opt.Start)
		}
		m.stillThere()
	}
	m.log.add(msg, m.now)
	for _, o := range msg.done {
		m.finish(o)
	}
}

// asOf is the time for which the picture is true: now, or, while the lab cannot be reached, that of its last word. So no
// machine is blamed for a silence that is the lab's.
func (m *model) asOf() time.Time {
	if m.gone != nil {
		return m.word
	}
	return m.now
}

// open goes to an address.
func (m *model) open(address string) {
	p, err := parsePlace(m.snap(), address)
	if err != nil {
		m.fail(err)
		return
	}
	m.goTo(p)
}

// snap is the newest snapshot, empty before there is one.
func (m *model) snap() lab.Snapshot {
	if m.x == nil {
		return lab.Snapshot{}
	}
	return m.x.snap
}

// stillThere leaves a place whose subject has gone.
func (m *model) stillThere() {
	_, machine := m.x.snap.Machines[m.at.machine]
	_, image := m.x.snap.Images[m.at.image]
	_, stack := m.x.snap.Stacks[m.at.stack]
	if m.at.stack != "" && !stack {
		delete(m.drafts, m.at.stack)
	}
	if m.at.machine != 0 && !machine || m.at.image != "" && !image || m.at.stack != "" && !stack {
		said := m.flash
		m.goTo(place{at: m.at.tab()})
		m.flash = said // it may well be why the subject has gone
	}
	m.recompose()
}

// goTo shows another place.
func (m *model) goTo(p place) {
	if p == m.at {
		return
	}
	if p.top() { // a screen of its own: what was opened or filtered elsewhere is over
		m.visited, m.filters = nil, map[place]filter{}
	} else {
		m.visited = append(m.visited, m.at)
		m.visited = m.visited[max(0, len(m.visited)-keptPlaces):]
	}
	m.enter(p)
}

// keptPlaces is how many places one can go back through.
const keptPlaces = 50

// enter shows a place and asks for the log that belongs to it. The last line is the new place's: neither the command nor
// the words that belong to the old one stay.
func (m *model) enter(p place) {
	m.at, m.pane, m.command, m.flash = p, 0, "", flash{}
	m.log.seek(p, m)
	if p.at == action.Compose {
		m.compose(p.stack)
	}
}

// back returns to where the place was opened; false at a tab, which nothing opened.
func (m *model) back() bool {
	if m.at.top() {
		return false
	}
	delete(m.filters, m.at)
	stack := m.at.stack
	p := place{at: m.at.tab()}
	if !p.top() {
		p.at = action.Machines
	}
	if n := len(m.visited); n > 0 {
		p = m.visited[n-1]
		m.visited = m.visited[:n-1]
	}
	m.enter(p)
	if m.changed(stack) {
		m.say(cell.Warn, "stack %s is not saved; enter opens it again, and s there saves it", stack)
	}
	return true
}

// list is the list of the place shown.
func (m *model) list() *list {
	l := m.lists[m.at]
	if l == nil {
		l = &list{}
		m.lists[m.at] = l
	}
	return l
}

// say shows words in the last line for a while, and keeps them.
func (m *model) say(mark cell.Mark, format string, args ...any) {
	m.flash = flash{mark, fmt.Sprintf(format, args...), m.now}
	m.told = append(m.told, m.flash)
	m.told = m.told[max(0, len(m.told)-keptTold):]
}

// fail says an error.
func (m *model) fail(err error) {
	text := lab.Words(err)
	if errors.Is(err, lab.ErrNotFound) && !strings.Contains(text, "there is no ") { // without its kind it is only a name
		text = lab.Clean(err.Error())
	}
	m.say(cell.Failed, "%s", text)
}

// View implements tea.Model: exactly as many lines as the window has, none wider.
func (m *model) View() string {
	if !m.dirty {
		return m.view
	}
	m.dirty = false
	m.drawnTimes++
	g := &m.grid
	g.Reset(m.w, m.h)
	g.Faded = m.gone != nil
	if m.w > 0 && m.h > 0 {
		m.draw(g)
	}
	m.view = g.String()
	return m.view
}
