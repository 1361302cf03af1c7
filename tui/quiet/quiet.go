// Package quiet answers lipgloss's question about the terminal's background before bubbletea asks it. Bubble Tea's
// package init writes a colour query to the terminal and waits five seconds for an answer that a serial line, a pipe or
// a test never gives. Packages without a common import are initialised in the order of their paths, and carte/ sorts
// before github.com/, so a blank import of this package is enough. It knows nothing else and must not import more.
package quiet

import "github.com/charmbracelet/lipgloss"

func init() { lipgloss.SetHasDarkBackground(true) }
