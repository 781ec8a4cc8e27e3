// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tarn/configs"
	"tarn/matrix"
	"tarn/media"
	"tarn/store"
)

// onFirst does something when the first byte is written.
type onFirst struct {
	io.Writer
	do func()
}

func (o *onFirst) Write(p []byte) (int, error) {
	if o.do != nil {
		o.do()
		o.do = nil
	}
	return o.Writer.Write(p)
}

// offline makes a node and opens it; it does not run.
func offline(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	cfg := configs.DefaultNode()
	cfg.DataDir, cfg.Tor.Mode = dir, "off"
	if _, err := newIdentity(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, program.ConfigName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := open(cfg, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestABackupHasAllFilesThatItsDatabaseNames(t *testing.T) {
	n := offline(t)
	defer n.close()
	upload := func(text string) string {
		id, err := n.media.Upload("@alice:"+matrix.UserID(n.id.name), strings.NewReader(text), int64(len(text)), media.Meta{})
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	before, during := upload("before"), ""
	var file bytes.Buffer
	if err := n.writeBackup(&onFirst{&file, func() { during = upload("during") }}, "passphrase"); err != nil {
		t.Fatal(err)
	}
	sealed, to := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "b")
	if err := os.WriteFile(sealed, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := restore(to, sealed, "passphrase"); err != nil {
		t.Fatal(err)
	}
	kv, err := store.OpenNode(filepath.Join(to, "db"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer kv.Close()
	m, err := media.Open(filepath.Join(to, "media"), kv, media.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// Whether the one that came meanwhile is in it is a matter of order; its row and its bytes are so together.
	rows := 0
	for _, id := range []string{before, during} {
		f, err := m.Get(t.Context(), id)
		if errors.Is(err, media.ErrNotFound) && id == during {
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		rows++
		f.Close()
	}
	if blobs, err := filepath.Glob(filepath.Join(to, "media", "blobs", "*", "*")); err != nil || len(blobs) != rows {
		t.Errorf("%d files of %d rows came back, %v", len(blobs), rows, err)
	}
}
