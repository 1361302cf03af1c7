package payload

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"time"
)

// DemoTree returns the demo system as a tar: one static x86-64 program as /sbin/init,
// and the folders that it mounts on. The same program gives the same bytes. Without
// the program the error is ErrMissing.
func (p Payload) DemoTree() ([]byte, error) {
	program, err := p.file(DemoFile)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, dir := range []string{"dev/", "proc/", "run/", "sbin/", "sys/", "tmp/"} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}))
	}
	err = errors.Join(err, w.WriteHeader(&tar.Header{Name: "sbin/init", Mode: 0o755, Size: int64(len(program)), ModTime: time.Unix(0, 0)}))
	_, writeErr := w.Write(program)
	if err := errors.Join(err, writeErr, w.Close()); err != nil {
		return nil, fmt.Errorf("demo system: %w", err)
	}
	return b.Bytes(), nil
}
