package remote

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"carte/lab"
	"carte/lab/chunk"
)

var (
	collected = lab.Collected{Manifests: 2, Chunks: 9, Bytes: 12345, Slack: 6, Young: 1, Seconds: 0.5, Notes: []string{"1 manifest is young"}}
	fscked    = lab.Fscked{Chunks: 7, Bytes: 99, Mended: 1, Broken: []lab.Broken{{What: "chunk", ID: chunk.ID{5}, Why: "damaged", Versions: []lab.Ref{{Name: "deb", Version: 3}}}}}
)

func (d *desk) Collect(_ context.Context, dry bool) (lab.Collected, error) {
	got := collected
	got.Dry = dry
	return got, nil
}

func (d *desk) Fsck(_ context.Context, progress func(done, of int64)) (lab.Fscked, error) {
	progress(1, 2)
	return fscked, nil
}

func TestUpkeep(t *testing.T) {
	_, c := serve(t, t.TempDir(), nil)
	for _, dry := range []bool{true, false} {
		want := collected
		want.Dry = dry
		if got, err := c.Collect(t.Context(), dry); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Collect(%v) = %+v, %v", dry, got, err)
		}
	}
	var told bool
	got, err := c.Fsck(t.Context(), func(done, of int64) { told = told || done == 1 && of == 2 })
	if err != nil || !reflect.DeepEqual(got, fscked) || !told {
		t.Errorf("Fsck = %+v, %v; told of its progress: %v", got, err, told)
	}
}

// A collection that does not say whether it is dry removes nothing.
func TestCollectMustSayIfDry(t *testing.T) {
	_, c := serve(t, t.TempDir(), nil)
	for _, q := range []string{"", "maybe"} {
		var got lab.Collected
		err := c.ask(t.Context(), http.MethodPost, "/gc", map[string][]string{"dry": {q}}, nil, &got)
		if !errors.Is(err, lab.ErrInvalid) || !strings.Contains(err.Error(), "neither true nor false") {
			t.Errorf("dry=%s: %v, %+v", q, err, got)
		}
	}
}
