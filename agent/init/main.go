// Command init is carte's agent: the first process of a machine that booted from carte, and, under other names, what of it
// lives beside the user's system. It is embedded in carte and travels in the initramfs that carte serves; nobody starts it
// by hand.
package main

import (
	"os"

	"carte/agent"
)

func main() {
	switch os.Args[0] {
	case agent.ShimName:
		os.Exit(agent.Shim())
	case agent.LazyName:
		os.Exit(agent.Lazy())
	case agent.GuardName:
		os.Exit(agent.Guard())
	}
	agent.PID1()
}
