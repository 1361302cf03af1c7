// Package shim is the agent's second life: a process beside the user's system that speaks for it.
package shim
