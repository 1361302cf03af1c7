package action

// screen are the actions that the screen does by itself.
var screen = []Action{
	view("machines", "1", Machines, "carte machine ls"),
	view("queue", "2", Queue, "carte queue ls"),
	view("images", "3", Images, "carte image ls"),
	view("stacks", "4", Stacks, "carte stack ls"),
	{
		ID: "view.log", Words: "log", Keys: []string{"L"}, Where: []Place{Machines, Queue, Boot, Images, Stacks, Compose},
		Help: "show the log of the selected machine, or of all",
		Command: func(t Target) string {
			if t.Machine.ID == 0 {
				return "carte log -f"
			}
			return command("carte", "log", "-f", t.Machine.Label())
		},
	},
	{
		ID: "view.needs", Words: "needs", Keys: []string{"!"}, Where: []Place{Everywhere},
		Help: "show what needs you", Command: fixed("carte status"),
	},
	{
		ID: "view.help", Words: "help", Keys: []string{"?", "f1"}, Where: []Place{Everywhere},
		Help: "show the keys of this place", Command: fixed("carte help"),
	},
	{
		ID: "view.filter", Words: "filter", Keys: []string{"/"}, Where: []Place{Everywhere},
		Help: "show only rows or lines with these words; !word leaves out", Ask: question("filter"), Command: byPlace,
	},
	{
		ID: "view.command", Words: "command", Keys: []string{":"}, Where: []Place{Everywhere},
		Help: "do something by its words", Ask: question("command"), Command: fixed("carte help"),
	},
	{
		ID: "view.copy", Words: "copy command", Keys: []string{"y"}, Where: []Place{Everywhere},
		Help: "copy the command of the last line to the clipboard", Command: fixed("carte"),
	},
	{
		ID: "view.redraw", Words: "redraw", Keys: []string{"ctrl+l"}, Where: []Place{Everywhere},
		Help: "draw everything again", Command: fixed("carte"),
	},
	{
		ID: "view.suspend", Words: "suspend", Keys: []string{"ctrl+z"}, Where: []Place{Everywhere},
		Help: "give the terminal back to the shell for a while; fg returns", Command: fixed("carte"),
	},
	{
		ID: "log.follow", Words: "follow", Keys: []string{"f"}, Where: []Place{Log, Boot, Machines},
		Help: "keep the newest line in view, or stop doing so", Command: logCommand("-f"),
	},
	{
		ID: "log.wrap", Words: "wrap", Keys: []string{"w"}, Where: []Place{Log, Boot},
		Help: "wrap long lines, or cut them", Command: logCommand(""),
	},
	{
		ID: "log.time", Words: "time", Keys: []string{"t"}, Where: []Place{Log, Boot},
		Help: "time as clock, since the boot's start, or since the line before", Command: logCommand(""),
	},
	{
		ID: "view.quit", Words: "quit", Keys: []string{"q", "ctrl+c"}, Where: []Place{Everywhere},
		Help: "go back, and at the top leave", Command: fixed("carte"),
	},
}

// moves are what moves the selection. No other action may take a letter of theirs.
var moves = []Action{
	move("down", "one row down", "j", "down"),
	move("up", "one row up", "k", "up"),
	move("top", "to the first row", "g", "home"),
	move("bottom", "to the last row", "G", "end"),
	move("page.down", "a page down", "ctrl+d", "pgdown"),
	move("page.up", "a page up", "ctrl+u", "pgup"),
	move("next", "to the next match", "n"),
	move("previous", "to the match before", "N"),
	move("pane", "to the next pane", "tab"),
	move("pane.back", "to the pane before", "shift+tab"),
	{
		ID: "move.open", Words: "open", Keys: []string{"enter", "l", "right"}, Where: []Place{Everywhere},
		Help: "open the selected row",
		Command: func(t Target) string {
			switch {
			case t.Machine.ID != 0:
				return command("carte", "machine", "show", t.Machine.Label())
			case t.Boot.ID != 0:
				return command("carte", "boot", "show", number(t.Boot))
			case t.Image.Name != "":
				return command("carte", "image", "show", imageWord(t))
			case t.Stack.Name != "":
				return command("carte", "stack", "show", t.Stack.Name)
			}
			return "carte status"
		},
	},
	{
		ID: "move.back", Words: "back", Keys: []string{"esc", "h", "left"}, Where: []Place{Everywhere},
		Help: "go back to where this was opened", Command: byPlace,
	},
}

func view(name, key string, p Place, cmd string) Action {
	return Action{ID: "view." + name, Words: name, Keys: []string{key}, Where: []Place{Everywhere}, Help: "show the " + string(p), Command: fixed(cmd)}
}

func move(name, help string, keys ...string) Action {
	return Action{ID: "move." + name, Words: "move " + name, Keys: keys, Where: []Place{Everywhere}, Help: help, Command: fixed("carte")}
}

func fixed(cmd string) func(Target) string { return func(Target) string { return cmd } }

func question(q string) func(Target) string { return func(Target) string { return q } }

// byPlace is the command that lists what the selected row is one of.
func byPlace(t Target) string {
	switch {
	case t.Machine.ID != 0:
		return "carte machine ls"
	case t.Image.Name != "":
		return "carte image ls"
	case t.Stack.Name != "":
		return "carte stack ls"
	case t.Boot.ID != 0:
		return "carte queue ls"
	}
	return "carte status"
}

func logCommand(flag string) func(Target) string {
	return func(t Target) string {
		words := []string{"carte", "log"}
		if flag != "" {
			words = append(words, flag)
		}
		if t.Machine.ID != 0 {
			words = append(words, t.Machine.Label())
		}
		return command(words...)
	}
}
