package tui

import (
	"fmt"
	"strings"

	"carte/lab"
)

// fewNames is how many machines are named before they are only counted.
const fewNames = 3

// CutOff says what stops with a lab that lives in the screen's own process, for Options.Leave: virtual machines that are on,
// and boots under way elsewhere. It is empty when nothing does.
func CutOff(s lab.Snapshot) string {
	var on []string
	boots := 0
	for _, mc := range s.SortedMachines() {
		live := s.Live[mc.ID]
		if mc.Virtual != nil && (live.Power == "on" || live.Order == "on" || live.Order == "cycle") {
			on = append(on, mc.Label())
		} else if _, busy := s.Active(mc.ID); busy {
			boots++
		}
	}
	var parts []string
	switch {
	case len(on) == 1:
		parts = append(parts, on[0]+" runs and will be cut off")
	case len(on) > fewNames:
		parts = append(parts, fmt.Sprintf("%d virtual machines run and will be cut off", len(on)))
	case len(on) > 1:
		parts = append(parts, strings.Join(on, ", ")+" run and will be cut off")
	}
	if boots > 0 {
		parts = append(parts, fmt.Sprintf("boots going on: %d; the next carte takes them up again", boots))
	}
	return strings.Join(parts, "; ")
}
