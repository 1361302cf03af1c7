package lab

import "carte/lab/chunk"

// Collected is what a collection freed, or, as a dry run, would free.
type Collected struct {
	Dry       bool     `json:"dry_run"`
	Manifests int      `json:"manifests"`    // that no version refers to
	Chunks    int      `json:"chunks"`       // that no manifest lists
	Bytes     int64    `json:"freed_bytes"`  // by which the files of the store shrink
	Copies    int64    `json:"copies_bytes"` // of the bytes freed: second copies of chunks that stay or go
	Slack     int64    `json:"slack_bytes"`  // of unlisted chunks that stay in packs whose other chunks are needed
	Young     int      `json:"young_manifests"`
	Results   int64    `json:"results_bytes"` // of what boots left, which stays: see ForgetOut
	Seconds   float64  `json:"seconds"`
	Notes     []string `json:"notes,omitempty"` // what stays although nobody refers to it, and why, for people
}

// Fscked is what hashing everything in the store came to. What was mended is whole again and is not in Broken.
type Fscked struct {
	Chunks  int      `json:"chunks"`
	Bytes   int64    `json:"read_bytes"`
	Damaged int      `json:"damaged_chunks"` // or missing, before anything was mended
	Mended  int      `json:"mended_chunks"`  // from another copy in the store
	Asked   int      `json:"asked_chunks"`   // of machines, which bring what they have with their next boot
	Seconds float64  `json:"seconds"`
	Broken  []Broken `json:"broken"`
	Notes   []string `json:"notes,omitempty"`
}

// Broken is a chunk or a manifest that is not what its name promises.
type Broken struct {
	What     string   `json:"what"` // chunk or manifest
	ID       chunk.ID `json:"id"`
	Why      string   `json:"why"`      // damaged or missing
	Versions []Ref    `json:"versions"` // that it hurts; none: nothing uses it
}
