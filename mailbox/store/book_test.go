// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"testing"

	kv "tarn/store"
)

// The book is opened by the first call that finds room on the disk, and loaded once.
func TestABookThatIsOpenedLater(t *testing.T) {
	full, loads := true, 0
	b := newBook(func() (kv.KV, error) {
		if full {
			return nil, kv.ErrDiskFull
		}
		return kv.OpenMemory(), nil
	}, func(kv.KV) error { loads++; return nil })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { b.run(ctx); close(ended) }()
	write := func() error { return b.Update(func(x kv.Txn) error { return x.Set([]byte("a"), []byte("b")) }) }
	for range 2 {
		if err := write(); !errors.Is(err, kv.ErrDiskFull) {
			t.Errorf("a full disk: %v", err)
		}
	}
	full = false
	for range 2 {
		if err := write(); err != nil {
			t.Error(err)
		}
	}
	if loads != 1 {
		t.Errorf("loaded %d times", loads)
	}
	cancel()
	<-ended
	if err := b.close(); err != nil {
		t.Error(err)
	}
}
