package lab

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// A Saying is a line by which a user's system speaks to carte over its console:
//
//	::carte ready                    the system runs
//	::carte metric NAME=VALUE UNIT   a number; the unit may be missing
//	::carte done                     the run is over and good
//	::carte fail WORDS               the run is over and bad
type Saying struct {
	Word  string // ready, metric, done, fail
	Name  string
	Value float64
	Unit  string
	Text  string
}

var (
	kernelStamp = regexp.MustCompile(`^(<\d+>)?\[ *\d+\.\d+\] `)
	metricName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.:/-]{0,63}$`)
)

// ParseSaying reads a console line. ok is false for a line that is not for carte; a line that is, and cannot be
// understood, is an error.
func ParseSaying(line string) (s Saying, ok bool, err error) {
	rest, ok := strings.CutPrefix(kernelStamp.ReplaceAllString(strings.TrimSpace(line), ""), "::carte ")
	if !ok {
		return Saying{}, false, nil
	}
	word, args, _ := strings.Cut(strings.TrimSpace(rest), " ")
	args = strings.TrimSpace(args)
	switch word {
	case "ready", "done", "fail":
		return Saying{Word: word, Text: args}, true, nil
	case "metric":
		pair, unit, _ := strings.Cut(args, " ")
		name, number, found := strings.Cut(pair, "=")
		value, err := strconv.ParseFloat(number, 64)
		if !found || err != nil || math.IsNaN(value) || math.IsInf(value, 0) || !metricName.MatchString(name) || len(unit) > 32 {
			return Saying{}, true, fmt.Errorf("%q is not NAME=NUMBER UNIT: %w", args, ErrInvalid)
		}
		return Saying{Word: word, Name: name, Value: value, Unit: strings.TrimSpace(unit)}, true, nil
	}
	return Saying{}, true, fmt.Errorf("%q is none of ready, metric, done, fail: %w", word, ErrInvalid)
}

// Console takes lines that a machine wrote to its serial console. They are logged, and heard by the boot whose system
// was started.
func (l *Lab) Console(ctx context.Context, machine int64, lines []string) error {
	now, err := l.Watch(ctx, 0)
	if err != nil {
		return err
	}
	hears := now.listens(machine)
	for _, line := range lines {
		l.Log(Line{Machine: machine, Source: "serial", Text: line})
		hears = hears || strings.Contains(line, "::carte ") || strings.HasSuffix(strings.TrimSpace(line), "login:") || deadEnd(line) != "" || lastWord(line) != ""
	}
	if !hears {
		return nil
	}
	var misheard []error
	_, err = l.do(ctx, func(d *draft) error {
		for _, line := range lines {
			line = Clean(line)
			if words := lastWord(line); words != "" {
				d.tells(machine, words)
			}
			d.firstWord(machine, line)
			s, ok, err := ParseSaying(line)
			if !ok && strings.HasSuffix(strings.TrimSpace(line), "login:") {
				s, ok = Saying{Word: "ready"}, true
			}
			if ok && err == nil {
				err = d.hear(machine, s)
			}
			if words := deadEnd(line); words != "" {
				d.stranded(machine, words)
			}
			if err != nil {
				misheard = append(misheard, err)
			}
		}
		return nil
	})
	for _, e := range misheard {
		l.Log(Line{Machine: machine, Source: "carte", Text: "not understood: " + e.Error()})
	}
	return err
}

// maxMetrics is how many differently named numbers a boot keeps; a system that makes up names stops there.
const maxMetrics = 1000

// hear lets the boot whose system was started act on what that system says.
func (d *draft) hear(machine int64, s Saying) error {
	b, ok := d.Active(machine)
	if !ok || b.State != Handover && b.State != Running || !b.Rung().Reached(RungHandover) {
		return nil
	}
	if b.State == Handover {
		b.climb(RungRun, d.at)
		b = d.move(b, Running, "")
		if s.Word != "fail" { // which the agent says too
			d.replaced(d.Machines[machine], b)
		}
		if b.Plan.Until == RungRun && s.Word != "fail" {
			b = d.move(b, Done, "")
		}
	}
	switch s.Word {
	case "metric":
		if _, known := b.Metrics[s.Name]; !known && len(b.Metrics) >= maxMetrics {
			return fmt.Errorf("metric %s: boot %d has reported %d others, which is the most: %w", s.Name, b.ID, maxMetrics, ErrRefused)
		}
		m := Metric{d.LastMetric + 1, b.ID, s.Name, s.Value, s.Unit, d.at}
		metrics := map[string]Metric{}
		for k, v := range b.Metrics {
			metrics[k] = v
		}
		metrics[s.Name] = m
		b.Metrics = metrics
		d.put(b, m)
	case "done":
		if !b.State.Final() {
			b.climb(RungCollect, d.at)
			d.put(b)
			d.move(b, Done, s.Text)
		}
	case "fail":
		if !b.State.Final() {
			d.move(b, Failed, or(s.Text, "the system said that its run failed"))
		}
	}
	return nil
}

// deadEnds are the last words of firmware that found nothing to start: SeaBIOS, OVMF, and PC firmware of old.
var deadEnds = []string{"No bootable device", "UEFI Interactive Shell", "Operating System not found", "No bootable medium"}

func deadEnd(line string) string {
	for _, words := range deadEnds {
		if strings.Contains(line, words) {
			return words
		}
	}
	return ""
}

// stranded ends a boot whose firmware, sent to the disk, found nothing to start there. Trying again would not help.
func (d *draft) stranded(machine int64, words string) {
	b, ok := d.Active(machine)
	if ok && b.State == Handover && b.Plan.Start == StartDisk && b.Rung() == RungHandover {
		d.voidTicket(machine)
		d.move(b, Failed, fmt.Sprintf("the firmware found nothing to start on the disk (%q); is the image bootable on this firmware?", words))
	}
}
