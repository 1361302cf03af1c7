package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/charmbracelet/x/ansi"

	"carte/lab"
)

// evidence is what the boots of a contract test have shown, and of what. Where one boot was enough it is both.
type evidence struct {
	version  lab.Version
	terms    lab.Terms
	own      bool // the first boot started the image's own program
	probes   bool // carte's own ran besides, at the second boot at least
	one, two seenBoot
	net      seenBoot // the one that the network is told by
}

func proven(c lab.Clause, format string, args ...any) lab.Proof {
	return lab.Proof{Clause: c, Verdict: lab.VerdictKept, Why: fmt.Sprintf(format, args...)}
}

func breaks(c lab.Clause, format string, args ...any) lab.Proof {
	return lab.Proof{Clause: c, Verdict: lab.VerdictBroken, Why: fmt.Sprintf(format, args...)}
}

func untold(c lab.Clause, format string, args ...any) lab.Proof {
	return lab.Proof{Clause: c, Verdict: lab.VerdictSkipped, Why: fmt.Sprintf(format, args...)}
}

// judge says that the system starts, and then of every clause there is what became of it: what nobody declares is not offered.
func (x evidence) judge() []lab.Proof {
	form := x.one.Plan.Form
	all := []lab.Proof{x.starts()}
	if form == lab.FormDisk {
		all = append(all, x.again())
	}
	for _, row := range lab.Clauses {
		_, declared := x.terms[row.Clause]
		switch {
		case !declared && form == lab.FormKernel:
			all = append(all, lab.Proof{Clause: row.Clause, Verdict: lab.VerdictAbsent, Why: "carte cannot keep it for a kernel that runs in memory"})
		case !declared && !slices.Contains(row.Served, form):
			all = append(all, lab.Proof{Clause: row.Clause, Verdict: lab.VerdictAbsent, Why: fmt.Sprintf("carte cannot keep it for a %s; %s", form, row.Lacks)})
		case !declared:
			all = append(all, lab.Proof{Clause: row.Clause, Verdict: lab.VerdictAbsent, Why: "it does not declare it"})
		default:
			all = append(all, x.prove(row.Clause))
		}
	}
	return all
}

// starts judges whether the system starts, at each of the boots.
func (x evidence) starts() lab.Proof {
	b := x.one
	for _, o := range []seenBoot{x.two, x.net} {
		if b.ran() && !o.ran() && o.Plan.Form != lab.FormDisk { // of which the next line tells
			b = o
		}
	}
	switch from := climbAt(b.Boot, lab.RungHandover); {
	case b.unseen():
		return untold(lab.Starts, "it was sent on its way, and nobody looked: %s", b.Reason)
	case !b.ran() && b.Plan.Start == lab.StartMemory:
		return breaks(lab.Starts, "%s; a kernel that runs and says nothing needs words for its serial console, by --cmdline or in its own carte/image.toml, or --until handover", b.Reason)
	case !b.ran():
		return breaks(lab.Starts, "boot %d: %s", b.ID, b.Reason)
	default:
		why := fmt.Sprintf("its system ran %s after it was started (%s)", took(climbAt(b.Boot, lab.RungRun).Sub(from).Seconds()), b.Plan.Start)
		if b.under != "" {
			why += ", under Linux " + b.under
		}
		if b.word != "" {
			why += fmt.Sprintf(", and said %q", ansi.Truncate(b.word, 60, "…"))
		}
		if b.State == lab.Failed {
			why += "; then its boot failed: " + b.Reason
		}
		return proven(lab.Starts, "%s", why)
	}
}

// again judges the second start of a disk. Its system may write to it: what it wrote is gone then, and that is said.
func (x evidence) again() lab.Proof {
	switch m := x.two.Moved; {
	case !x.one.ran() && !x.one.unseen():
		return untold(lab.Again, "it did not start once")
	case !x.two.ran() && !x.two.unseen():
		return breaks(lab.Again, "boot %d: %s", x.two.ID, x.two.Reason)
	case m.Written == 0:
		return proven(lab.Again, "the second boot read %s, found the disk as it was laid, and started it", lab.Bytes(m.Read))
	default:
		return proven(lab.Again, "its system writes to its disk, as a disk's may: the second boot put %s back, and started from the same bytes", lab.Bytes(m.Written))
	}
}

// tells are the boots that a clause is judged by: without a second, that is the first.
func (x evidence) tells(c lab.Clause) seenBoot {
	switch c {
	case lab.Lazy, lab.Autostart, lab.Heartbeat:
		return x.one
	case lab.Network:
		return x.net
	}
	return x.two
}

// prove judges a clause that the image declares.
func (x evidence) prove(c lab.Clause) lab.Proof {
	b := x.tells(c)
	if i := slices.IndexFunc(b.Plan.Agreed, func(a lab.Agreed) bool { return a.Clause == c }); i < 0 {
		return untold(c, "it was not agreed on")
	} else if a := b.Plan.Agreed[i]; !a.Given {
		return untold(c, "%s%s", a.Why, x.heard())
	}
	if !b.ran() {
		return untold(c, "its system did not show itself, so nothing could be seen of it")
	}
	switch c {
	case lab.Autostart:
		return x.autostart()
	case lab.Heartbeat:
		if b.beats == 0 && b.said == "" {
			return breaks(c, "nobody spoke from beside the system")
		}
		return proven(c, "carte was heard from beside the system while it ran")
	case lab.Results:
		return x.results()
	case lab.Network:
		return x.network()
	case lab.Overlay:
		return x.overlay()
	case lab.Sealed:
		m := b.Moved
		if m.Read == 0 && m.Written == 0 || b.Plan.Form == lab.FormTree && b.Plan.Reset != lab.ResetAlways {
			return breaks(c, "the second boot started unproven")
		}
		return proven(c, "before the second start %s were read and proven, and %s written anew", lab.Bytes(m.Read), lab.Bytes(m.Written))
	case lab.Lazy:
		switch {
		case x.one.late:
			return proven(c, "the system ran while %s were still to come", lab.Bytes(x.one.absent))
		case x.one.absent > 0:
			return untold(c, "%s were still to come when it was started, and all of them had arrived when it ran: it is too small, or the wire too fast, to tell", lab.Bytes(x.one.absent))
		}
		return untold(c, "all of %s was there when it was started: it is too small to tell", x.version.Ref())
	}
	return untold(c, "this carte has no test for it")
}

// heard says what a system that has no shim said on its serial console all the same.
func (x evidence) heard() string {
	if x.one.Plan.Form == lab.FormTree {
		return ""
	}
	if x.one.sayings == 1 {
		return "; 1 ::carte line was heard there"
	}
	return fmt.Sprintf("; %d ::carte lines were heard there", x.one.sayings)
}

func (x evidence) metric(b seenBoot, name string) (float64, bool) {
	m, ok := b.Metrics["contract_"+name]
	return m.Value, ok
}

// unprobed says why the probe has seen nothing.
func (x evidence) unprobed(b seenBoot) string {
	switch {
	case !x.probes:
		return "the system has no shell for the probe"
	case b.State == lab.Failed:
		return "the probe could not look: " + b.Reason
	}
	return "the probe did not get to look before the boot was over"
}

func (x evidence) autostart() lab.Proof {
	_, probed := x.metric(x.one, "started")
	switch {
	case x.own && x.one.said != "":
		why := fmt.Sprintf("its own program started by itself (%s/run)", lab.ProjectPlace)
		switch {
		case x.one.stopped:
			why += "; it was still at work when the test ended it"
		case x.one.State == lab.Failed:
			why += "; its boot then failed: " + x.one.Reason
		}
		return proven(lab.Autostart, "%s", why)
	case probed:
		return proven(lab.Autostart, "the probe started by itself, as %s/run", lab.ProjectPlace)
	case !x.own && !x.probes:
		return untold(lab.Autostart, "%s", x.unprobed(x.one))
	}
	return breaks(lab.Autostart, "no program started by itself%s", lead(": ", x.one.Reason))
}

func (x evidence) results() lab.Proof {
	names := func(b seenBoot) (n int, sum int64) {
		for _, r := range b.Results {
			n, sum = n+1, sum+r.Bytes
		}
		return n, sum
	}
	n, sum := names(x.one)
	if m, more := names(x.two); x.own && n > 0 {
		return proven(lab.Results, "what its program left came home from %s: %s, %s", lab.OutPlace, plural(n, "file"), lab.Bytes(sum))
	} else if m > 0 {
		return proven(lab.Results, "what the probe left came home from %s: %s, %s", lab.OutPlace, plural(m, "file"), lab.Bytes(more))
	}
	up, probed := x.metric(x.two, "network")
	switch {
	case !probed:
		return untold(lab.Results, "%s, so nothing was left in %s", x.unprobed(x.two), lab.OutPlace)
	case up != 1:
		return untold(lab.Results, "there was no network, and so no way home")
	}
	return breaks(lab.Results, "nothing came home from %s", lab.OutPlace)
}

func (x evidence) network() lab.Proof {
	b := x.net
	if b.Plan.Form != lab.FormTree {
		switch b.network {
		case "1":
			return proven(lab.Network, "its system said on its console that the network is up (contract_network=1)")
		case "0":
			return breaks(lab.Network, "its system said on its console that the network is not up (contract_network=0)")
		}
		return untold(lab.Network, "nobody of carte's is in it to look; it proves that by a line on its serial console: ::carte metric contract_network=1")
	}
	up, ok := x.metric(b, "network")
	lazy := slices.ContainsFunc(b.Plan.Agreed, func(a lab.Agreed) bool { return a.Clause == lab.Lazy && a.Given })
	switch {
	case !ok:
		return untold(lab.Network, "%s", x.unprobed(b))
	case up != 1:
		return breaks(lab.Network, "after a minute the system had no default route")
	case b.Plan.Start == lab.StartPivot:
		return untold(lab.Network, "the system has a default route, and under carte's kernel (pivot) it may be carte's: --kernel IMAGE tells")
	case lazy:
		return untold(lab.Network, "the system has a default route, and it may be the one over which carte brings its lazy layers")
	}
	return proven(lab.Network, "the system brought a default route up by itself: carte's network had ended with carte's kernel (%s)", b.Plan.Start)
}

func (x evidence) overlay() lab.Proof {
	dirty, probed := x.metric(x.two, "dirty")
	var why []string
	switch {
	case x.two.Plan.Reset != lab.ResetAlways:
		return untold(lab.Overlay, "the second boot did not read the base again")
	case x.one.absent > 0 && !x.one.whole:
		return untold(lab.Overlay, "not all of its lazy layers had arrived when the second boot came, so what that wrote tells nothing")
	}
	if x.two.Moved.Written > 0 {
		why = append(why, fmt.Sprintf("the base had changed: the second boot had to write %s", lab.Bytes(x.two.Moved.Written)))
	}
	if probed && dirty != 0 {
		why = append(why, "the second boot found a file that the first had left")
	}
	if len(why) > 0 {
		return breaks(lab.Overlay, "%s", strings.Join(why, "; "))
	}
	did := "after the first had run"
	if _, ok := x.metric(x.one, "started"); ok {
		did = "after the first had written to /etc"
	}
	return proven(lab.Overlay, "%s the second boot read %s, and had nothing to write%s", did, lab.Bytes(x.two.Moved.Read),
		map[bool]string{true: "; what the first had written was gone"}[probed])
}
