package lab

import (
	"fmt"
	"slices"
	"strings"
)

// pathsTold is how many paths a remark lists.
const pathsTold = 4

// overlaps says which files several layers have, and who wins: the last. Kernels are left out: of theirs only the modules of
// their own release are seen in a running system. Files that are mounted somewhere hide what a tree has there.
func (j *judging) overlaps(p Plan, paths func(PlanLayer) ([]string, error)) {
	if paths == nil || p.Form != FormTree {
		return
	}
	lie := func(l PlanLayer) bool { return l.Form == FormTree || l.Form == FormFiles }
	if len(slices.DeleteFunc(slices.Clone(p.Layers), func(l PlanLayer) bool { return !lie(l) })) < 2 {
		return
	}
	last := map[string]int{}
	for i, l := range p.Layers {
		if !lie(l) {
			continue
		}
		list, err := paths(l)
		if err != nil {
			j.good("I-PATHS", "the files of %s were not listed, so nothing is said of those that it has in common with others: %s", l.Ref, reason(err))
			continue
		}
		both := map[int][]string{}
		for _, path := range list {
			if path == "/carte.toml" || path == "/carte/image.toml" { // what an image says of itself
				continue
			}
			path = l.Place + path
			if under, ok := last[path]; ok {
				both[under] = append(both[under], path)
			}
			last[path] = i
		}
		for under := range i {
			if all := both[under]; len(all) > 0 {
				j.warn("W-PATHS", "the last layer wins; move the one that is to win to the end", "%s in %s and in %s, and %s wins: %s", filesAre(len(all)), p.Layers[under].Ref, l.Ref, l.Ref, some(all))
			}
		}
		if l.Place != "" {
			j.hidden(p, i, last)
		}
	}
}

// hidden says what files of lower layers cannot be seen any more, because others are mounted over them.
func (j *judging) hidden(p Plan, i int, last map[string]int) {
	var all []string
	for path, owner := range last {
		if owner < i && strings.HasPrefix(path, p.Layers[i].Place+"/") {
			all = append(all, path)
		}
	}
	if slices.Sort(all); len(all) > 0 {
		j.warn("W-HIDES", fmt.Sprintf("carte image import FILE --name %s --place DIR mounts it elsewhere; --place / lays it over the root", p.Layers[i].Ref.Name), "%s is mounted at %s, and hides what lies there: %s", p.Layers[i].Ref, p.Layers[i].Place, some(all))
	}
}

func filesAre(n int) string {
	if n == 1 {
		return "1 file is"
	}
	return fmt.Sprintf("%d files are", n)
}

// some lists the first of many paths.
func some(paths []string) string {
	var shown []string
	for _, p := range paths[:min(len(paths), pathsTold)] {
		shown = append(shown, cut(Clean(p), 120))
	}
	text := strings.Join(shown, ", ")
	if more := len(paths) - pathsTold; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
