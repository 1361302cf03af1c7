package lab

import (
	"context"

	"carte/lab/chunk"
)

// How a flash goes about a disk that may hold something.
type Strategy string

const (
	Auto         Strategy = "auto"         // a short probe decides
	Full         Strategy = "full"         // everything that is used is written, unseen
	Differential Strategy = "differential" // the disk is read first, and only what differs is written
)

// Strategies lists them.
var Strategies = []Strategy{Auto, Full, Differential}

// Check is how much of what was written is read back from the medium and hashed again.
type Check string

const (
	CheckAlways  Check = "always"
	CheckSampled Check = "sampled" // one chunk in sixteen
	CheckNever   Check = "never"
)

// Checks lists them.
var Checks = []Check{CheckAlways, CheckSampled, CheckNever}

// All says that everything is read back, which is what happens when nothing was said.
func (c Check) All() bool { return c == CheckAlways || c == "" }

// A Flash says what to lay onto a file or device of this computer.
type Flash struct {
	Version  Version
	To       string    // path; a device must be there, a file is made
	Strategy Strategy  // empty: Auto
	Check    Check     // empty: CheckAlways
	Confirm  string    // To once more, where what is there would be lost
	Grow     bool      // on a larger disk the last partition and its ext4 take the room; that needs root
	Known    []Version // what an earlier flash may have left there; it may go without a confirmation
}

// A Capture says of what a file or device is to become the next version.
type Capture struct {
	Import
	From string `json:"from"`           // path
	Base int    `json:"base,omitempty"` // version that it was made from; 0: the newest
}

// A Forecast is what a probe of disk and wire found, and the strategy that follows from it. Times are in seconds.
type Forecast struct {
	Strategy     Strategy `json:"strategy"`
	Why          string   `json:"why"`
	Predicted    float64  `json:"predicted_seconds"` // with that strategy
	Full         float64  `json:"predicted_full_seconds"`
	Differential float64  `json:"predicted_differential_seconds"`
}

// Flashed is what a flash or a capture came to. Moved.Read and so on are in bytes.
type Flashed struct {
	Image   string   `json:"image"`
	Version int      `json:"version"`
	Root    chunk.ID `json:"root"`
	Path    string   `json:"path"`
	Forecast
	Verify  Check   `json:"verify"`
	Total   int64   `json:"bytes_total"`
	Read    int64   `json:"bytes_read"`
	Fetched int64   `json:"bytes_fetched"` // as stored
	Written int64   `json:"bytes_written"`
	Zeroed  int64   `json:"bytes_zeroed"`
	Kept    int64   `json:"bytes_kept"` // in chunks that differ, and there already
	Sent    int64   `json:"bytes_sent"` // as stored, into the lab
	Same    bool    `json:"same"`       // nothing had to change
	Seconds float64 `json:"seconds"`
	PeakRSS int64   `json:"peak_rss_bytes"` // of this process
}

// A Depot is a desk that has the chunks of images at hand. Its methods may be called from any number of goroutines.
type Depot interface {
	Desk
	// Manifest returns the manifest with that root, proven, of size bytes.
	Manifest(ctx context.Context, root chunk.ID, size int64) (chunk.Manifest, error)
	// Chunks hands over chunks in the order of ids, at most MaxChunksAsked, in their stored form, unchecked; stored is valid
	// until each returns. got counts those that each took without an error.
	Chunks(ctx context.Context, ids []chunk.ID, each func(id chunk.ID, stored []byte) error) (got int, err error)
	// Lacks returns those of ids that are not stored, in their order.
	Lacks(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error)
	// Keep makes m the next version of an image. next hands over the chunks that were lacking, in their stored form, in any
	// order, and ends with io.EOF. Whatever goes wrong leaves no version.
	Keep(ctx context.Context, c Capture, m chunk.Manifest, next func() (chunk.ID, []byte, error)) (Imported, error)
}
