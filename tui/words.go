package tui

import (
	"fmt"
	"time"
)

// span writes a duration as a person reads it, in at most six cells: 4.1s, 41s, 2m10s, 1h05m, 3d.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 9950*time.Millisecond:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < 59500*time.Millisecond:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < time.Hour:
		d = d.Round(time.Second)
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		d = d.Round(time.Minute)
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// ago is span without tenths, for times that merely pass.
func ago(now, at time.Time) string {
	if at.IsZero() {
		return "—"
	}
	d := max(now.Sub(at), 0)
	if d < 10*time.Second {
		return fmt.Sprintf("%ds", d/time.Second)
	}
	if d >= time.Minute && d < 48*time.Hour {
		d = d.Truncate(time.Minute)
		if d < time.Hour {
			return fmt.Sprintf("%dm", d/time.Minute)
		}
	}
	return span(d)
}

// day writes a time of day, with the date when it is not today's.
func day(now, at time.Time) string {
	if at.IsZero() {
		return "—"
	}
	at = at.In(now.Location())
	if at.YearDay() == now.YearDay() && at.Year() == now.Year() {
		return at.Format("15:04")
	}
	return at.Format("2 Jan 15:04")
}

// plural writes 1 machine, 2 machines.
func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

// percent writes how much of the whole a part is, with as many digits as it takes not to say 0.
func percent(part, whole int64) string {
	if whole <= 0 {
		return "0%"
	}
	switch p := 100 * float64(part) / float64(whole); {
	case p == 0, p >= 10:
		return fmt.Sprintf("%.0f%%", p)
	case p >= 1:
		return fmt.Sprintf("%.1f%%", p)
	case p >= 0.01:
		return fmt.Sprintf("%.2f%%", p)
	}
	return "under 0.01%"
}
