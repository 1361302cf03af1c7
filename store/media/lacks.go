package media

import (
	"slices"

	"carte/lab/ext4"
	"carte/lab/modules"
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
	for release, n := range dir.Names {
		list, err := f.read("lib/modules/"+release+"/modules.builtin", maxText)
		if err != nil {
			return nil
		}
		built, has := modules.Parse(map[string][]byte{"modules.builtin": list}), map[string]bool{}
		listModules(n, has)
		all = slices.DeleteFunc(slices.Clone(lazyModules), func(name string) bool { return has[name] || built.Built(name) })
	}
	return all
}

// listModules notes the names of all modules below a directory; that of any other file is no module's.
func listModules(n *ext4.Node, has map[string]bool) {
	for name, child := range n.Names {
		if child.IsDir() {
			listModules(child, has)
		} else {
			has[modules.Name(name)] = true
		}
	}
}
