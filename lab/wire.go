package lab

import (
	"net/netip"
	"slices"
	"time"

	"carte/lab/chunk"
)

// What the server and the agent say to one another, as JSON over TLS whose key is pinned on the agent's command line.
// The agent always asks; the server never calls into a machine.
const (
	PathClaim    = "/v1/claim"     // POST Claim -> Orders; the token is the right
	PathReport   = "/v1/report"    // POST Report -> Reply; Authorization: Bearer KEY from here on
	PathManifest = "/v1/manifest/" // GET + root -> chunk.Manifest, encoded; only roots of the agent's plan
	PathChunks   = "/v1/chunks"    // POST ids, 32 bytes each -> frames in the same order; only chunks of the agent's plan
	PathStage    = "/v1/stage"     // POST a second stage, at most MaxStage bytes -> nothing; iPXE loads it with the stack's kernel
	PathGive     = "/v1/give"      // POST frames of chunks that a Reply asked for, at most MaxWanted -> nothing; others are not taken

	// Of a shim, while its system runs.
	PathOut  = "/v1/out"   // POST a tar of what /carte/out holds -> nothing; it is on the server's disk then
	PathBack = "/v1/back/" // POST + image: a tar of what changed over it, deletions as in an OCI layer -> Kept

	// Of an agent whose boot is a capture; see Captured.
	PathLacks = "/v1/capture/lacks"    // POST ids -> those that are not stored, in that order
	PathTake  = "/v1/capture/chunks"   // POST frames -> nothing; they are on the disk then
	PathKeep  = "/v1/capture/manifest" // POST chunk.Manifest, encoded -> Kept; not found: a chunk of it is not stored
)

// The most that an agent sends in one request.
const (
	MaxIDsSent      = 8192     // to PathLacks
	MaxTaken        = 32 << 20 // bytes to PathTake
	MaxManifestSent = 64 << 20 // bytes to PathKeep: a disk of 512 GiB
	MaxStage        = 512 << 20
)

// Kept is what became of a capture. Same: the version had these bytes already.
type Kept struct {
	Ref  Ref  `json:"ref"`
	Same bool `json:"same"`
}

// MaxChunksAsked is the most ids that one request for chunks may name.
const MaxChunksAsked = 256

// MaxPeers is the most other agents that one is told of.
const MaxPeers = 16

// MaxMessage is the most bytes that a Claim or a Report may have.
const MaxMessage = 1 << 20

// The words on the agent's kernel command line.
const (
	ArgServer = "carte.server" // base URL of the API, https://ADDRESS:PORT
	ArgPin    = "carte.pin"    // SHA-256 of the server's certificate, hex
	ArgToken  = "carte.token"  // single-use token
	ArgMAC    = "carte.mac"    // the card that the machine booted from
)

// Claim is the agent's first word. Key is made in the agent's memory; the same claim may be repeated with the same key.
type Claim struct {
	Token     string    `json:"token"`
	Key       string    `json:"key"` // 32 random bytes, hex
	Inventory Inventory `json:"inventory"`
}

// What an agent is to do.
const (
	DoWait    = "wait"    // stay, report, take orders from a reply
	DoBoot    = "boot"    // write the disk, start the user's system
	DoCapture = "capture" // read the disk, send what the server lacks of it, report without a boot
	DoRepair  = "repair"  // open a shell on the machine's consoles, or write the base again
	DoLocal   = "local"   // restart into the machine's own disk
	DoRun     = "run"     // a shim's: its system runs, serve it
	DoStop    = "stop"    // touch nothing, show Why on the machine's own console, and wait to be switched off
)

// Orders is what an agent is told to do.
type Orders struct {
	Do      string   `json:"do"`
	Why     string   `json:"why,omitempty"`
	Machine string   `json:"machine"`
	Boot    int64    `json:"boot,omitempty"`
	Stack   string   `json:"stack,omitempty"`
	Form    Form     `json:"form,omitempty"`
	Start   Start    `json:"start,omitempty"`
	Cmdline string   `json:"cmdline,omitempty"`
	Disk    DiskID   `json:"disk"`
	Writes  []Write  `json:"writes,omitempty"`
	Base    Write    `json:"base,omitzero"`     // of a capture: what the disk is compared with; without one, only where the image begins
	Had     []Write  `json:"had,omitempty"`     // what carte has written to the disk before, and where: chunks may be found there
	Tail    DiskTail `json:"tail,omitzero"`     // carte's own end of the disk; empty: none
	Grow    bool     `json:"grow,omitempty"`    // the last partition and its file system take the room that the disk has
	Reset   Reset    `json:"reset,omitempty"`   // of a tree: how much of what lies there already is proven
	Compose Compose  `json:"compose,omitzero"`  // of a tree: how it is put together
	Reflash bool     `json:"reflash,omitempty"` // of a repair: the first of Writes is written again, and nobody is asked
}

// Compose says how a tree that lies on a disk becomes a running system.
type Compose struct {
	Scratch  Region            `json:"scratch,omitzero"`   // where its changes go; empty: to memory
	Files    []TextFile        `json:"files,omitempty"`    // written into it before it starts
	Given    []Clause          `json:"given,omitempty"`    // the clauses of the agreement
	Must     []Clause          `json:"must,omitempty"`     // of those, the ones that are required
	Params   map[string]string `json:"params,omitempty"`   // for what it runs, in the environment as CARTE_NAME
	Fallback bool              `json:"fallback,omitempty"` // should kexec fail, the machine may restart: the server has the kernel
}

// Gives says whether a clause is given.
func (c Compose) Gives(x Clause) bool { return slices.Contains(c.Given, x) }

// Requires says whether a clause is given, and there is no boot without it.
func (c Compose) Requires(x Clause) bool { return slices.Contains(c.Must, x) }

// A Region is a part of a disk, in bytes.
type Region struct {
	Offset int64 `json:"offset_bytes"`
	Bytes  int64 `json:"bytes"`
}

// A Write is one image's place on the disk, in bytes.
type Write struct {
	Ref    Ref      `json:"ref"`
	Root   chunk.ID `json:"root"`
	Offset int64    `json:"offset_bytes"`
	Bytes  int64    `json:"bytes"`
	Form   Form     `json:"form,omitempty"`
	Place  string   `json:"place,omitempty"` // of files: where they are mounted; empty: over the root
	Back   bool     `json:"back,omitempty"`  // what is changed in it goes to PathBack
	Lazy   bool     `json:"lazy,omitempty"`  // its system may start before all of it is there
}

// A Report is what the agent says while it works, about once a second, and at every rung. Before the first changed byte
// it says Writing and waits for the reply; Proven says that everything was read back.
type Report struct {
	Boot     int64    `json:"boot"`
	Rung     Rung     `json:"rung,omitempty"`
	Progress Progress `json:"progress"`
	Moved    Moved    `json:"moved"`
	Forecast Forecast `json:"forecast,omitzero"` // once, with the rung probe, or where nothing is written with verify
	Peer     Peer     `json:"peer,omitzero"`     // where other agents may ask this one for chunks
	Writing  bool     `json:"writing,omitempty"`
	Proven   bool     `json:"proven,omitempty"`       // of a shim: what was to come is there, and was read back
	Absent   int64    `json:"absent_bytes,omitempty"` // with Proven: bytes of lazy layers that are still to come
	Revoked  bool     `json:"revoked,omitempty"`      // the answer to Reply.Revoke: nothing is being written any more
	Error    string   `json:"error,omitempty"`        // why the attempt ends
	Fatal    bool     `json:"fatal,omitempty"`        // trying again would not help
	NoKexec  string   `json:"no_kexec,omitempty"`     // why the machine cannot replace its kernel by that of the boot; the boot goes on
	Lines    []string `json:"lines,omitempty"`
	Shim     bool     `json:"shim,omitempty"` // it is from the shim, and its lines are the user's system's: what it says after ::carte is heard
}

// A Reply answers a report.
type Reply struct {
	Revoke string  `json:"revoke,omitempty"` // stop cleanly, and report Revoked
	Orders *Orders `json:"orders,omitempty"` // for an agent that waits
	Peers  []Peer  `json:"peers,omitempty"`  // other agents that work on the same images just now

	Wants []chunk.ID `json:"wants,omitempty"` // chunks that the server has lost, at most MaxWanted; whoever has one may give it
}

// A Peer is an agent that hands chunks of its plan to others which have the same. What it hands over is hashed by who
// takes it.
type Peer struct {
	Machine int64  `json:"machine"`
	Addr    string `json:"addr"`  // address:port of its TLS listener
	Pin     string `json:"pin"`   // SHA-256 of its certificate, hex
	Token   string `json:"token"` // made by it, for this boot alone
}

// collides says that an address which two agents give is not two: each would find itself there. Ports say nothing, but on
// the loopback, where agents are processes of one computer.
func (p Peer) collides(o Peer) bool {
	a, err := netip.ParseAddrPort(p.Addr)
	if err != nil {
		return false
	}
	b, err := netip.ParseAddrPort(o.Addr)
	return err == nil && a.Addr() == b.Addr() && (!a.Addr().IsLoopback() || a.Port() == b.Port())
}

// A Ticket is the right of one booted agent to speak for its machine. It is single-use: the first claim fixes Key.
type Ticket struct {
	Number int64     `json:"number"`
	Boot   int64     `json:"boot,omitempty"` // 0: no boot, only to look at the machine
	Key    string    `json:"key,omitempty"`  // SHA-256 of the agent's key, hex; empty until claimed
	At     time.Time `json:"at"`
}
