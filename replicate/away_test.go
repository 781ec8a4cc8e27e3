// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/store"
)

// boundsTo bounds what waits for each contact.
func (n *node) boundsTo(most int) {
	n.w.t.Helper()
	e := n.open()
	e.maxWaiting = most
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := e.boundOutboxes(); err != nil {
		n.w.t.Fatal(err)
	}
}

func TestWhatWaitsForAnAwayContactIsBoundedAndHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		talk(t, w, a, b, 2, 10*time.Minute)
		quiet(w, a, b, time.Hour)
		b.stop()
		a.stop()
		for i := range 200 {
			a.rooms.send(t, lounge, fmt.Sprint("while b is away ", i))
		}
		if err := a.kv.Update(func(txn store.Txn) error { // what does not heal stays, however old it is
			for range 70 {
				if err := store.Enqueue(txn, string(b.name()), store.ItemMessage, []byte(`{"number":2,"previous":1,"sender":"@a:b","user":"@c:d","device":"*","type":"t","content":{}}`)); err != nil {
					return err
				}
			}
			return store.Enqueue(txn, string(b.name()), store.ItemRecord, []byte{200, 1})
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Hour)
		a.boundsTo(50)
		s := a.status(b.name())
		if s.Waiting != 50 || !strings.Contains(s.Reason, "Away since 2000-01-0") || !strings.Contains(s.Reason, "200 older events") || !strings.Contains(s.Reason, " 21 older messages") {
			t.Errorf("%d wait: %q", s.Waiting, s.Reason)
		}
		records := 0
		if err := a.kv.View(func(r store.Reader) error {
			items, err := store.Pending(r, string(b.name()), 0, 1000)
			for _, it := range items {
				if it.Kind == store.ItemRecord {
					records++
				}
			}
			return err
		}); err != nil || records != 1 {
			t.Errorf("%d records are left, %v", records, err)
		}
		a.start()
		b.start()
		w.has(b, lounge, 202, 12*time.Hour)
		quiet(w, a, b, 2*time.Hour)
		if s := a.status(b.name()); s.Reason != "" {
			t.Errorf("still %q", s.Reason)
		}
	})
}

// TestWhatWaitsForAStrangerIsBounded: it may wait for ever.
func TestWhatWaitsForAStrangerIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a := w.node(1, fast())
		stranger := w.node(2, fast()).name()
		for i := range byte(90) {
			if err := a.kv.Update(func(txn store.Txn) error {
				return store.Enqueue(txn, string(stranger), 1+i%5, []byte{i})
			}); err != nil {
				t.Fatal(err)
			}
		}
		a.boundsTo(50)
		if err := a.kv.View(func(r store.Reader) error {
			items, err := store.Pending(r, string(stranger), 0, 100)
			if len(items) != 50 || items[0].Seq != 41 {
				t.Errorf("%d items are left", len(items))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestABoxIsSealedAnewBeforeItsStoreForgetsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.store(0).bucket = time.Minute
		p := CustomProfile(5*time.Minute, 0.3)
		a, b := w.node(1, p), w.node(2, p)
		a.start()
		b.start()
		defer w.stopAll()
		w.friends(a, b)
		talk(t, w, a, b, 2, 12*time.Hour)
		quiet(w, a, b, 24*time.Hour)
		b.stop()
		a.rooms.send(t, lounge, "for later")
		time.Sleep(6 * 24 * time.Hour)
		if n := a.engine.Counts().Resealed; n != 0 {
			t.Errorf("%d boxes were sealed anew within six days of 14", n)
		}
		time.Sleep(10 * 24 * time.Hour)
		n := a.engine.Counts().Resealed
		if n == 0 || n > 20 {
			t.Errorf("%d boxes were sealed anew in 16 days", n)
		}
		b.start()
		w.has(b, lounge, 3, 48*time.Hour)
		if n := w.store(0).reused(); n != 0 {
			t.Errorf("%d indices were used twice", n)
		}
	})
}
