// Command init is carte's agent: the first process of a machine that booted from carte. It is embedded in carte and
// travels in the initramfs that carte serves; nobody starts it by hand.
package main

import "carte/agent"

func main() { agent.PID1() }
