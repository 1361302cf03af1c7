package cli

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"carte/lab"
)

// The documents of --json. Their names are promises to scripts: fields are added, never renamed.

type machineDoc struct {
	ID        int64          `json:"id"`
	Name      string         `json:"name"`
	Standing  lab.Standing   `json:"standing"`
	State     string         `json:"state"` // one of the words of stateOf
	Code      string         `json:"code,omitempty"`
	MACs      []lab.MAC      `json:"macs"`
	IP        string         `json:"ip,omitempty"`
	UUID      string         `json:"uuid,omitempty"`
	Virtual   *lab.Virtual   `json:"virtual,omitempty"`
	Driver    string         `json:"power_driver"`
	Exec      []string       `json:"power_exec,omitempty"`
	Power     string         `json:"power"` // on, off or empty
	Order     string         `json:"power_order,omitempty"`
	Warm      bool           `json:"warm"`
	Tail      int64          `json:"tail_bytes"` // 0: the disk decides; -1: none
	Tails     []tailDoc      `json:"tails"`      // what that comes to, on each armed disk
	Note      string         `json:"note,omitempty"`
	Trouble   string         `json:"trouble,omitempty"`
	Parked    string         `json:"parked,omitempty"`
	Boot      int64          `json:"boot,omitempty"` // active, else newest
	Waiting   int            `json:"waiting"`
	Asked     int            `json:"asked"`
	Seen      *time.Time     `json:"seen,omitempty"`
	Since     *time.Time     `json:"since,omitempty"`
	Inventory *lab.Inventory `json:"inventory,omitempty"`
	Arms      []lab.Arm      `json:"arms"`
	Holds     []lab.Holding  `json:"holds"`
	Kexec     *kexecDoc      `json:"kexec,omitempty"` // absent: not tried yet
}

// kexecDoc is what is known of a machine's way of replacing its kernel.
type kexecDoc struct {
	Proven *time.Time `json:"proven,omitempty"`
	Failed string     `json:"failed,omitempty"` // why
}

// tailDoc is carte's region at the end of an armed disk; of 0 bytes where the disk has no room for one.
type tailDoc struct {
	Disk lab.DiskID `json:"disk"`
	lab.DiskTail
}

func tailsOf(s lab.Snapshot, m lab.Machine) []tailDoc {
	all := []tailDoc{}
	for _, a := range m.Arms {
		all = append(all, tailDoc{a.DiskID, s.TailOn(m, a.DiskID)})
	}
	return all
}

func machineOf(s lab.Snapshot, m lab.Machine) machineDoc {
	live := s.Live[m.ID]
	d := machineDoc{
		ID: m.ID, Name: m.Name, Standing: m.Standing, State: stateOf(s, m), MACs: m.MACs, IP: live.IP, UUID: m.UUID,
		Virtual: m.Virtual, Driver: m.Power.Driver, Exec: m.Power.Exec, Power: live.Power, Order: live.Order, Warm: m.Warm, Tail: m.Tail, Tails: tailsOf(s, m),
		Note: m.Note, Trouble: s.Trouble(m), Parked: m.Parked, Waiting: len(s.QueueOf(m.ID)), Asked: live.Asked,
		Seen: stamp(live.Seen), Since: stamp(m.Since), Inventory: m.Inventory, Arms: m.Arms, Holds: m.Holds,
	}
	if b, ok := bootOf(s, m.ID); ok {
		d.Boot = b.ID
	}
	if m.Standing == lab.Unknown {
		d.Code = m.Code()
	}
	if m.Kexec != (lab.KexecRecord{}) {
		d.Kexec = &kexecDoc{stamp(m.Kexec.Proven), m.Kexec.Failed}
	}
	return d
}

// bootOf is the machine's active boot, else its newest.
func bootOf(s lab.Snapshot, machine int64) (lab.Boot, bool) {
	if b, ok := s.Active(machine); ok {
		return b, true
	}
	return s.LastBootOf(machine)
}

// stateOf is one word for what a machine does: unknown, ignored, the state of its active boot, parked, waiting for its
// turn, or, when it has nothing to do, on, off or idle when nobody can tell.
func stateOf(s lab.Snapshot, m lab.Machine) string {
	if m.Standing != lab.Adopted {
		return string(m.Standing)
	}
	b, busy := s.Active(m.ID)
	switch live := s.Live[m.ID]; {
	case busy && s.Broken(b): // its machine stopped with the lab
		return string(lab.Queued)
	case busy:
		return string(b.State)
	case m.Parked != "":
		return "parked"
	case len(s.QueueOf(m.ID)) > 0:
		return "queued"
	default:
		return or(live.Power, "idle")
	}
}

type bootDoc struct {
	ID       int64             `json:"id"`
	Machine  string            `json:"machine"`
	Stack    string            `json:"stack"`
	Images   []lab.Ref         `json:"images"`
	Plan     string            `json:"plan"` // digest
	Start    lab.Start         `json:"start"`
	Params   map[string]string `json:"params,omitempty"`
	Cmdline  string            `json:"cmdline,omitempty"`
	Agreed   []lab.Agreed      `json:"agreed"`
	State    lab.State         `json:"state"`
	Reason   string            `json:"reason,omitempty"`
	Waits    string            `json:"waits,omitempty"`
	Cause    string            `json:"cause,omitempty"`
	Fix      string            `json:"fix,omitempty"`
	Rung     lab.Rung          `json:"rung,omitempty"`
	Progress *lab.Progress     `json:"progress,omitempty"`
	Attempt  int               `json:"attempt"`
	Strikes  int               `json:"strikes"`
	Disk     *lab.DiskID       `json:"disk,omitempty"`
	Rungs    []rungDoc         `json:"rungs"`
	lab.Moved
	Forecast *forecastDoc         `json:"forecast,omitempty"`
	Capture  *lab.PlanCapture     `json:"capture,omitempty"` // what a boot that captures was asked for
	Extract  string               `json:"extract,omitempty"` // what of the disk it takes, in words
	Captured lab.Ref              `json:"captured,omitzero"` // the version that it made, or found
	Same     bool                 `json:"same,omitempty"`    // it was there already
	Metrics  map[string]metricDoc `json:"metrics"`
	Results  []lab.Result         `json:"results"` // that it left in /carte/out
	Taken    *time.Time           `json:"results_taken,omitempty"`
	Removed  *time.Time           `json:"results_removed,omitempty"`
	Wrote    []lab.Ref            `json:"wrote"`              // versions that it wrote back
	NoKexec  string               `json:"no_kexec,omitempty"` // why its kernel did not replace the agent's
	Queued   *time.Time           `json:"queued,omitempty"`
	Since    *time.Time           `json:"since,omitempty"`
	Ended    *time.Time           `json:"ended,omitempty"`
}

type rungDoc struct {
	Name     lab.Rung  `json:"name"`
	Seconds  float64   `json:"seconds"` // since the rung before; the first, since the attempt began as far as that is known
	Inferred bool      `json:"inferred"`
	SoFar    bool      `json:"so_far,omitempty"` // the boot is on it still: that long until now
	Attempt  int       `json:"attempt"`
	At       time.Time `json:"at"`
}

// forecastDoc is how a disk was gone about, what that was to take, and what it took.
type forecastDoc struct {
	lab.Forecast
	Took  float64 `json:"took_seconds"`     // from the rung hash to the end of verify
	SoFar bool    `json:"so_far,omitempty"` // it is not over: that long until now
}

type metricDoc struct {
	Value float64    `json:"value"`
	Unit  string     `json:"unit,omitempty"`
	At    *time.Time `json:"at,omitempty"`
}

func bootDocOf(s lab.Snapshot, b lab.Boot, now time.Time) bootDoc {
	if n := len(b.Climbs); s.Still && n > 0 { // nothing goes on, and nobody knows since when
		now = b.Climbs[n-1].At
	}
	d := bootDoc{
		ID: b.ID, Machine: machineName(s, b.Machine), Stack: b.Plan.Stack, Images: []lab.Ref{}, Plan: b.Plan.Digest.String(),
		Start: b.Plan.Start, Params: b.Plan.Params, Cmdline: b.Plan.Cmdline, Agreed: append([]lab.Agreed{}, b.Plan.Agreed...),
		Results: append([]lab.Result{}, b.Results...), Taken: stamp(b.OutTaken), Removed: stamp(b.OutGone), Wrote: append([]lab.Ref{}, b.Wrote...), NoKexec: b.NoKexec,
		State: b.State, Reason: b.Reason, Waits: s.Why(b), Rung: b.Rung(), Attempt: b.Attempt, Strikes: b.Strikes,
		Rungs: rungsOf(b, now), Moved: s.MovedBy(b), Metrics: metricsOf(b), Queued: stamp(b.Queued), Since: stamp(b.Since), Ended: stamp(b.Ended),
	}
	if d.Capture = b.Plan.Capture; d.Capture != nil {
		d.Extract, d.Captured, d.Same = b.Chosen.Why, b.Captured, b.Same
	} else if b.Chosen.Strategy != "" {
		took, over := b.Flashing(now)
		d.Forecast = &forecastDoc{b.Chosen, math.Round(took.Seconds()*1000) / 1000, !over}
	}
	for _, l := range b.Plan.Layers {
		d.Images = append(d.Images, l.Ref)
	}
	if b.Disk.Named() {
		d.Disk = &b.Disk
	}
	d.Cause, d.Fix = b.Cause(s.Machines[b.Machine])
	if a, ok := s.AlertOfBoot(b, now); ok {
		d.Cause, d.Fix = a.Why, a.Fix
	}
	if p := s.Live[b.Machine].Progress; !b.State.Final() && p.Rung != "" {
		d.Progress = &p
	}
	return d
}

// rungsOf are the rungs of all attempts, each with the time that it took, or has taken by now. Of an attempt before the
// last one nobody knows when it began, so its first rung took none. A last rung that nobody saw is left out: there is no
// later one that proves it.
func rungsOf(b lab.Boot, now time.Time) []rungDoc {
	all := []rungDoc{}
	for rest := b.Climbs; len(rest) > 0; {
		n := slices.IndexFunc(rest, func(c lab.Climb) bool { return c.Attempt != rest[0].Attempt })
		if n < 0 {
			n = len(rest)
		}
		begun, end := rest[0].At, rest[n-1].At
		if rest[0].Attempt == b.Attempt {
			begun = b.Begun
		}
		if n == len(rest) && !b.Ended.IsZero() {
			end = b.Ended
		}
		on := n == len(rest) && b.OnIt(len(b.Climbs)-1)
		if on && now.After(end) {
			end = now
		}
		for i, cl := range rest[:n] {
			if i == n-1 && cl.Inferred {
				break
			}
			took := lab.Took(rest[:n], i, begun, end)
			all = append(all, rungDoc{cl.Rung, math.Round(took.Seconds()*1000) / 1000, cl.Inferred, on && i == n-1, cl.Attempt, cl.At.UTC()})
		}
		rest = rest[n:]
	}
	return all
}

func metricsOf(b lab.Boot) map[string]metricDoc {
	all := map[string]metricDoc{}
	for name, m := range b.Metrics {
		all[name] = metricDoc{m.Value, m.Unit, stamp(m.At)}
	}
	return all
}

func machineName(s lab.Snapshot, id int64) string {
	if m, ok := s.Machines[id]; ok {
		return m.Label()
	}
	return "(forgotten)"
}

type imageDoc struct {
	Name     string       `json:"name"`
	Kind     string       `json:"kind"`
	Form     lab.Form     `json:"form"`
	Latest   int          `json:"latest"`
	Stored   int64        `json:"stored_bytes"`
	Saved    int64        `json:"saved_bytes"`
	Stacks   []string     `json:"stacks"`
	Versions []versionDoc `json:"versions"`
	Dies     *time.Time   `json:"dies,omitempty"`  // then its versions are removed
	Owner    string       `json:"owner,omitempty"` // the machine that it lives with
	Since    *time.Time   `json:"since,omitempty"`
}

type versionDoc struct {
	Ref     lab.Ref    `json:"ref"`
	Number  int        `json:"number"`
	Root    string     `json:"root"`
	Bytes   int64      `json:"size_bytes"`        // of the disk
	Systems int64      `json:"file_system_bytes"` // how far its file systems reach, added up; 0: not known
	Content int64      `json:"content_bytes"`     // what is neither zero nor free
	Stored  int64      `json:"stored_bytes"`      // that this version added
	Saved   int64      `json:"saved_bytes"`       // of its content, that it did not have to add
	Parent  int        `json:"parent,omitempty"`
	Tags    []string   `json:"tags,omitempty"`
	Message string     `json:"message,omitempty"`
	Author  string     `json:"author,omitempty"`
	Found   string     `json:"found,omitempty"`
	Inside  lab.Inside `json:"inside,omitzero"`
	Offers  lab.Terms  `json:"offers,omitempty"` // clauses, where it says which
	Place   string     `json:"place,omitempty"`  // where files are mounted, where it says so
	At      *time.Time `json:"at,omitempty"`
	Badge   *badgeDoc  `json:"contract,omitempty"` // what a contract test has proven of it
}

func versionOf(s lab.Snapshot, v lab.Version) versionDoc {
	return versionDoc{v.Ref(), v.Number, v.Root.String(), v.Bytes, v.FileSystems, v.Content, v.Stored, saved(v), v.Parent, s.TagsOf(v), v.Message, v.Author, v.Found, v.Inside, v.Offers, v.Place, stamp(v.At), badgeOf(s, v)}
}

// saved is what a version did not have to add to the store: what was there before, and what compression took away.
func saved(v lab.Version) int64 { return max(0, v.Content-v.Stored) }

func imageOf(s lab.Snapshot, i lab.Image) imageDoc {
	d := imageDoc{Name: i.Name, Kind: i.Kind, Form: i.Form, Latest: i.Latest, Stacks: []string{}, Versions: []versionDoc{}, Dies: stamp(i.Dies), Owner: i.Owner, Since: stamp(i.Since)}
	for _, st := range s.SortedStacks() {
		if slices.ContainsFunc(st.Layers, func(r lab.Ref) bool { return r.Name == i.Name }) {
			d.Stacks = append(d.Stacks, st.Name)
		}
	}
	for _, v := range s.VersionsOf(i.Name) {
		d.Versions = append(d.Versions, versionOf(s, v))
		d.Stored += v.Stored
		d.Saved += saved(v)
	}
	return d
}

func sortedImages(s lab.Snapshot) []lab.Image {
	return slices.SortedFunc(maps.Values(s.Images), func(a, b lab.Image) int { return cmp.Compare(a.Name, b.Name) })
}
