package media

import (
	"slices"
	"strings"

	"carte/lab/ext4"
)

// lazyModules are what a kernel serves the clause lazy with, by the names of their modules.
var lazyModules = []string{"fuse", "loop"}

// lacks lists those of lazyModules that a kernel image has neither as modules nor built in. Where nothing says what is built in,
// nothing is known to be lacking.
func (f *Files) lacks() (all []string) {
	dir := f.follow("lib/modules")
	if dir == nil || len(dir.Names) != 1 {
		return nil
	}
	for release, modules := range dir.Names {
		built, err := f.read("lib/modules/"+release+"/modules.builtin", maxText)
		if err != nil {
			return nil
		}
		has := map[string]bool{}
		for line := range strings.Lines(string(built)) {
			has[moduleOf(line[strings.LastIndex(line, "/")+1:])] = true
		}
		listModules(modules, has)
		all = slices.DeleteFunc(slices.Clone(lazyModules), func(name string) bool { return has[name] })
	}
	return all
}

// listModules notes the names of all modules below a directory.
func listModules(n *ext4.Node, has map[string]bool) {
	for name, child := range n.Names {
		if child.IsDir() {
			listModules(child, has)
		} else {
			has[moduleOf(name)] = true
		}
	}
}

// moduleOf is the name of the module in a file of that name; that of any other file is no module's.
func moduleOf(file string) string {
	name, _, _ := strings.Cut(file, ".ko")
	return name
}
