package shim

import (
	"runtime"
	"slices"

	"carte/lab"
)

// Offers is the table of what a shim keeps, and on which systems. A clause that is not in it is no shim's.
var Offers = []struct {
	Clause string
	On     []string // as Go calls them; empty: all that it is built for
}{
	{string(lab.Heartbeat), nil},
	{string(lab.Autostart), nil},
	{string(lab.Results), nil},
	{string(lab.Lazy), []string{"linux"}},
	{string(lab.Overlay), []string{"linux"}},
	{string(lab.Network), []string{"linux"}},
	{string(lab.ClauseWritten), []string{"linux"}},
}

// Offered says whether a shim keeps a clause on a system.
func Offered(clause, system string) bool {
	for _, o := range Offers {
		if o.Clause == clause {
			return o.On == nil || slices.Contains(o.On, system)
		}
	}
	return true
}

// offer says which of the boot's clauses this system cannot have.
func (s *life) offer() {
	for _, c := range s.Orders.Compose.Given {
		if !Offered(string(c), runtime.GOOS) {
			s.tell("clause %s is not offered on %s", c, runtime.GOOS)
		}
	}
}
