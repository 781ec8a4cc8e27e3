// SPDX-License-Identifier: Apache-2.0

package courier_test

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
)

func TestABoxGoesThroughACourier(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.connect()
		ctx := t.Context()
		id, box := randomBox()
		put, none := w.frame(putOf(id, box), nothing, 2*time.Second, time.Second, 6*time.Second, w.store.Address())
		if _, _, err := none.Wait(ctx); err != nil {
			t.Error(err)
		}
		if _, _, err := put.Wait(ctx); err != nil {
			t.Error(err)
		}
		_, get := w.frame(nothing, getOf(id), 0, time.Second, 6*time.Second, w.store.Address())
		_, body, err := get.Wait(ctx)
		if err != nil || !bytes.Equal(body, box) {
			t.Errorf("the box did not come back: %v", err)
		}
		_, other := randomBox()
		put, get = w.frame(putOf(id, other), getOf(mailbox.BoxID{1}), 0, 0, 6*time.Second, w.store.Address())
		if _, _, err := put.Wait(ctx); !errors.Is(err, mailbox.ErrExists) {
			t.Errorf("another box under that id: %v", err)
		}
		if _, body, err := get.Wait(ctx); err != nil || bytes.Equal(body, box) || len(body) != mailbox.BoxSize {
			t.Errorf("an absent box: %d bytes, %v", len(body), err)
		}
		time.Sleep(40 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		found := 0
		for i, p := range w.pages {
			for _, h := range p.Handles {
				if h == id.Handle() {
					found++
				}
			}
			if i > 0 && p.Index != w.pages[i-1].Index+1 {
				t.Errorf("page %d after page %d", p.Index, w.pages[i-1].Index)
			}
		}
		if found != 1 || len(w.pages) < 4 {
			t.Errorf("the box is in %d of %d pushed pages", found, len(w.pages))
		}
	})
}
