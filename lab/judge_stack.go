package lab

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// What is said of a stack, whatever the machine.

// edit says what to change in the stack's own text, and how.
func (j *judging) edit(what string) string {
	return fmt.Sprintf("%s: carte stack edit %s", what, or(j.st.Name, "NAME"))
}

// resolve makes the plan for no machine, and says all that stands in its way.
func (j *judging) resolve() (p Plan, ok bool) {
	if err := j.st.check(); err != nil {
		j.stop("E-STACK", j.edit("mend what is named"), "%s", reason(err))
		return p, false
	}
	layers, ok := j.layers()
	if !ok {
		return p, false
	}
	form, err := systemForm(layers)
	if err != nil {
		j.misfit(layers, err)
		return p, false
	}
	j.agreed = negotiate(form, j.st.Asks, j.offerings(j.st, layers))
	for _, a := range j.agreed {
		if !a.refuses() {
			continue
		}
		j.stop("E-CLAUSE", j.edit(fmt.Sprintf("asks.%s = \"optional\", or take an image that offers it", a.Clause)), "clause %s is required and cannot be given: %s", a.Clause, a.Why)
		if j.st.Asks[a.Clause] == Required && !j.demanded(layers, a.Clause) {
			j.mend(func(st *Stack) { st.Asks[a.Clause] = Optional })
		}
		ok = false
	}
	if !ok {
		return p, false
	}
	if p, err = j.Plan(j.st, Machine{}, nil); err != nil {
		open := j.st
		open.Start = ""
		if _, other := j.Plan(open, Machine{}, nil); other == nil {
			j.stop("E-START", j.edit("leave start out: the fastest that the machine can is taken"), "%s", reason(err))
			j.mend(func(st *Stack) { st.Start = "" })
			return p, false
		}
		j.stop("E-PARAM", j.edit("mend what is named"), "%s", reason(err))
		return p, false
	}
	if err := j.fits(j.st, p); err != nil {
		j.stop("E-SETTING", j.edit("mend what is named"), "%s", reason(err))
		return p, false
	}
	return p, true
}

// layers finds the version of every layer, and says which are not there.
func (j *judging) layers() (all []PlanLayer, ok bool) {
	ok = true
	for _, ref := range j.st.Layers {
		one := j.st
		one.Layers = []Ref{ref}
		found, err := j.planLayers(one, Machine{})
		if err == nil {
			all = append(all, found...)
			continue
		}
		ok = false
		im, have := j.Images[ref.Name]
		switch {
		case have && !im.Dies.IsZero() && len(j.VersionsOf(ref.Name)) == 0:
			anew := fmt.Sprintf("carte image import FILE --name %s --kind %s --for 8h makes it anew", ref.Name, im.Kind)
			j.stop("E-DIED", anew, "%s; %s", reason(err), anew)
		case have:
			j.stop("E-VERSION", fmt.Sprintf("carte image log %s", ref.Name), "%s", reason(err))
		default:
			j.stop("E-IMAGE", fmt.Sprintf("carte image import FILE --name %s", ref.Name), "%s", reason(err))
		}
		if len(j.st.Layers) > 1 {
			j.mend(func(st *Stack) {
				st.Layers = slices.DeleteFunc(st.Layers, func(r Ref) bool { return r == ref })
				st.Keep = slices.DeleteFunc(st.Keep, func(k string) bool { return k == ref.Name })
			})
		}
	}
	return all, ok
}

// misfit says why layers are no system, and mends what is only in the wrong order.
func (j *judging) misfit(layers []PlanLayer, err error) {
	var roots, kernels []string
	first := -1
	for i, l := range layers {
		switch l.Form {
		case FormDisk, FormTree:
			if roots = append(roots, l.Ref.String()); first < 0 {
				first = i
			}
		case FormKernel:
			kernels = append(kernels, l.Ref.String())
		}
	}
	switch {
	case len(roots) > 1:
		j.stop("E-ROOTS", j.edit("keep one of "+strings.Join(roots, ", ")), "%s", reason(err))
	case len(kernels) > 1:
		j.stop("E-KERNELS", j.edit("keep one of "+strings.Join(kernels, ", ")), "%s", reason(err))
	case first > 0 && layers[first].Form == FormTree:
		j.stop("E-ORDER", j.edit("put "+roots[0]+" first"), "%s", reason(err))
		j.mend(func(st *Stack) {
			ref := st.Layers[first]
			st.Layers = slices.Insert(slices.Delete(st.Layers, first, first+1), 0, ref)
		})
	default:
		j.stop("E-SYSTEM", j.edit("begin with an image of the form tree or disk"), "%s", reason(err))
	}
}

// demanded says that an image itself requires a clause.
func (j *judging) demanded(layers []PlanLayer, c Clause) bool {
	return slices.ContainsFunc(j.offerings(j.st, layers), func(o offering) bool { return o.Terms[c] == Required })
}

// system says what starts, and how.
func (j *judging) system(p Plan) {
	root := p.Layers[0]
	kernel, own := p.Kernel()
	switch {
	case p.Form == FormKernel:
		j.good("I-SYSTEM", "%s runs in memory; no disk is touched", root.Ref)
	case p.Form == FormDisk && j.Versions[root.Ref.String()].Inside.Idle != "":
		j.warn("W-SYSTEM", fmt.Sprintf("carte image import FILE --name %s, of a disk that starts; --form tree, if it holds a system's files", root.Ref.Name), "%s is a whole disk, and nothing will start from it: it has %s", root.Ref, j.Versions[root.Ref.String()].Inside.Idle)
	case p.Form == FormDisk:
		j.good("I-SYSTEM", "%s is a whole disk, and starts from it", root.Ref)
	case own:
		j.good("I-SYSTEM", "one root, %s, and one kernel, %s", root.Ref, kernel.Ref)
	default:
		j.good("I-SYSTEM", "one root, %s, under carte's own kernel", root.Ref)
	}
	in := j.Versions[root.Ref.String()].Inside
	if p.Form == FormTree && in.Init == "" && (in.Arch != "" || len(in.UUIDs) > 0) {
		say, code := j.stop, "E-INIT"
		if len(p.Layers) > 1 || strings.Contains(p.Cmdline, "init=") || p.Until == RungHandover { // which may bring one, name another, or start nothing
			say, code = j.warn, "W-INIT"
		}
		say(code, fmt.Sprintf("carte image import FILE --name %s, of a tree that has /sbin/init", root.Ref.Name), "no init was found in %s: nothing would start in it", root.Ref)
	}
	var arch string
	var of Ref
	for _, l := range p.Layers {
		mine := j.Versions[l.Ref.String()].Inside.Arch
		if mine != "" && arch != "" && mine != arch {
			j.stop("E-ARCH", j.edit("take images of one architecture"), "%s is for %s and %s for %s", of, arch, l.Ref, mine)
			return
		}
		if mine != "" && arch == "" {
			arch, of = mine, l.Ref
		}
	}
}

// ends tells of a stack whose boots, as far as anybody knows, no program ends: none starts by itself, no file of the stack says
// that it is done, and no boot of it has come to that so far.
func (j *judging) ends(p Plan) {
	if p.Form != FormTree || p.Until != RungCollect || p.Gives(Autostart) {
		return
	}
	for _, f := range j.st.Files {
		if strings.Contains(f.Text, "::carte done") {
			return
		}
	}
	for _, b := range j.Boots {
		if b.Plan.Stack == j.st.Name && b.State == Done && b.Rung() == RungCollect {
			return
		}
	}
	j.good("I-ENDS", "no program is known to end its boots: one stays on the rung run until its system says ::carte done, or somebody stops it (carte boot stop)")
	j.all[len(j.all)-1].Fix = j.edit(`until = "run" ends a boot there`)
}

// deviceName finds a root that is named by the order in which disks are found.
var deviceName = regexp.MustCompile(`(^|\s)root=/dev/(sd|hd|vd|xvd|nvme|mmcblk)\S*`)

// kernelLine looks at the words for the kernel. Where carte puts a system together it hands its own consoles on; a kernel that
// runs in memory has the stack's words and no others.
func (j *judging) kernelLine(p Plan) {
	kernel, _ := p.Kernel()
	in := j.Versions[kernel.Ref.String()].Inside
	linux := in.Starts == "" || in.Starts == "linux" || in.Starts == "efi" && len(in.Kernels) > 0
	if p.Start == StartMemory && linux && !strings.Contains(p.Cmdline, "console=ttyS") {
		add := strings.TrimSpace(j.st.Cmdline + " console=ttyS0,115200")
		j.warn("W-CONSOLE", j.edit(fmt.Sprintf("cmdline = %q", add)), "the kernel line has no console=ttyS0: carte would not see what %s says", kernel.Ref)
		j.mend(func(st *Stack) { st.Cmdline = add })
	}
	if root := j.Versions[p.Layers[0].Ref.String()]; p.Form == FormDisk && p.Until == RungRun && root.Inside.Init != "" && !root.Inside.Serial {
		j.warn("W-SERIAL", j.edit(`until = "handover"`), "nothing in %s opens a serial console: carte would not see its system run", root.Ref())
		j.mend(func(st *Stack) { st.Until = RungHandover })
	}
	if name := strings.TrimSpace(deviceName.FindString(p.Cmdline)); name != "" {
		without := strings.TrimSpace(deviceName.ReplaceAllString(j.st.Cmdline, ""))
		if p.Form == FormTree {
			j.warn("W-ROOT", j.edit(fmt.Sprintf("cmdline = %q", without)), "the kernel line says %s; carte knows the disk by its serial number and mounts the root itself", name)
			j.mend(func(st *Stack) { st.Cmdline = without })
		} else {
			j.warn("W-ROOT", j.edit("root=UUID=… or root=LABEL=…"), "the kernel line says %s, and disks are named in the order in which they are found", name)
		}
	}
}

// versions says which layers stay as they are, which move by themselves, and which end.
func (j *judging) versions(p Plan) {
	for i, l := range p.Layers {
		if i >= len(j.st.Layers) { // it joined by itself
			continue
		}
		newest, _ := j.Version(Ref{Name: l.Ref.Name})
		switch ref := j.st.Layers[i]; {
		case ref.Version == 0:
			j.good("I-FLOATS", "%s takes the newest version, now %s", ref, l.Ref)
			j.mend(func(st *Stack) { st.Layers[i] = l.Ref })
			j.all[len(j.all)-1].Fix = j.edit(fmt.Sprintf("%s stays at that one", l.Ref))
		case newest.Number > ref.Version:
			j.good("I-NEWER", "%s stays at that version; the newest is %s", ref, newest.Ref())
			j.mend(func(st *Stack) { st.Layers[i] = newest.Ref() })
			j.all[len(j.all)-1].Fix = j.edit(newest.Ref().String())
		}
		if im := j.Images[l.Ref.Name]; !im.Dies.IsZero() {
			j.warn("W-DIES", fmt.Sprintf("carte image import FILE --name %s --kind %s --for 8h gives it longer", im.Name, im.Kind), "%s dies at %s (clause %q of kind %s); the stack cannot be booted after that", l.Ref, im.Dies.Format(time.RFC3339), ClauseLifetime, im.Kind)
		}
		if im := j.Images[l.Ref.Name]; im.Owner != "" {
			j.warn("W-OWNER", j.edit("take it out: it joins by itself there"), "%s is %s's own; no other machine can run this stack", l.Ref, im.Owner)
			if len(j.st.Layers) > 1 {
				j.mend(func(st *Stack) { st.Layers = slices.Delete(st.Layers, i, i+1) })
			}
		}
	}
}

// writtenBack says which images promise to be written back, and cannot be.
func (j *judging) writtenBack(p Plan) {
	for _, l := range p.Layers {
		k, err := j.KindOf(l.Kind)
		if err == nil && l.Form == FormFiles && !l.Back && (k.WrittenBack == "always" || k.WrittenBack == "changed") {
			j.warn("W-BACK", fmt.Sprintf("carte image import FILE --name %s --place /home/me gives it one", l.Ref.Name), "%s lies over the root, where its changes are not told from the system's own: it is not written back (clause %q of kind %s)", l.Ref, ClauseWritten, k.Name)
		}
	}
}

// fileSystems looks for two file systems with one id: a system that finds both mounts either.
func (j *judging) fileSystems(p Plan) {
	has := map[string]Ref{}
	for _, l := range p.Layers {
		for _, id := range j.Versions[l.Ref.String()].Inside.UUIDs {
			if first, twice := has[id]; twice {
				j.warn("W-UUID", "carte image import FILE --name OTHER gives it an id of its own", "%s and %s both have a file system with the id %s, and a system that looks for it takes either", first, l.Ref, id)
				continue
			}
			has[id] = l.Ref
		}
	}
}

// clauses tells what was asked for and what a boot has.
func (j *judging) clauses(p Plan) {
	for _, a := range p.Agreed {
		row := Clauses[slices.IndexFunc(Clauses, func(c InternalClause) bool { return c.Clause == a.Clause })]
		if a.Given {
			var by []string
			for _, r := range a.By {
				by = append(by, r.String())
			}
			j.good("I-CLAUSE", "%s: given by %s: %s", a.Clause, strings.Join(by, ", "), row.Means)
			continue
		}
		j.warn("W-CLAUSE", "carte contract test IMAGE says what an image keeps; --offer "+string(a.Clause)+" at its import declares it", "%s: asked for and not given: %s", a.Clause, a.Why)
	}
}
