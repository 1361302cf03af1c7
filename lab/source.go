package lab

import (
	"context"

	"carte/lab/chunk"
)

// A Source has the manifests and chunks of versions: a Depot, or what another computer shares. Its methods may be called
// from any number of goroutines, and are described at Depot.
type Source interface {
	Manifest(ctx context.Context, root chunk.ID, size int64) (chunk.Manifest, error)
	Chunks(ctx context.Context, ids []chunk.ID, each func(id chunk.ID, stored []byte) error) (got int, err error)
}
