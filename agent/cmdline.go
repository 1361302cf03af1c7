package agent

import "strings"

// words splits a kernel command line as the kernel does: at blanks, but for those between double quotes.
func words(line string) (all []string) {
	quoted := false
	for _, f := range strings.FieldsFunc(line, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && (r == ' ' || r == '\t' || r == '\n')
	}) {
		all = append(all, strings.ReplaceAll(f, `"`, ""))
	}
	return all
}

// argument returns the value of key=value, the last one when there are several.
func argument(line, key string) (value string) {
	for _, w := range words(line) {
		if v, ok := strings.CutPrefix(w, key+"="); ok {
			value = v
		}
	}
	return value
}

// initArguments sorts a command line as the kernel does for its init: key=value becomes environment, other words
// arguments, and all that follows a -- arguments as they are. Words with a dot before the = are a module's, not init's.
func initArguments(line string) (argv, env []string) {
	all := words(line)
	for i, w := range all {
		if w == "--" {
			return append(argv, all[i+1:]...), env
		}
		key, _, pair := strings.Cut(w, "=")
		switch {
		case !pair:
			argv = append(argv, w)
		case !strings.Contains(key, "."):
			env = append(env, w)
		}
	}
	return argv, env
}
