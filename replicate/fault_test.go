// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/bundle"
	"tarn/mailbox"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// talk sends n messages from a and checks that b gets each once, in order.
func talk(t *testing.T, w *world, a, b *node, n int, limit time.Duration) {
	t.Helper()
	had := len(b.rooms.bodies(lounge))
	var want []string
	for i := range n {
		body := fmt.Sprintf("%.4s %d %d", a.name(), had, i)
		a.rooms.send(t, lounge, body)
		want = append(want, body)
	}
	w.has(b, lounge, had+n, limit)
	if got := b.rooms.bodies(lounge)[had:]; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// quiet waits until nothing is unacknowledged.
func quiet(w *world, a, b *node, limit time.Duration) {
	w.t.Helper()
	w.until(limit, "acknowledgements", func() bool {
		return a.status(b.name()).Waiting == 0 && b.status(a.name()).Waiting == 0
	})
}

func TestAPeerThatIsOffForDaysGetsEverythingWhenItIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		p := CustomProfile(40*time.Second, 0.3)
		a, b := w.node(1, p), w.node(2, p)
		w.store(0).bucket = 10 * time.Second
		a.start()
		b.start()
		w.friends(a, b)
		talk(t, w, a, b, 3, time.Hour)
		b.stop()
		var want []string
		for i := range 30 {
			time.Sleep(2 * time.Hour)
			want = append(want, fmt.Sprint("while you were away ", i))
			a.rooms.send(t, lounge, want[i])
		}
		b.start()
		defer w.stopAll()
		w.has(b, lounge, 33, 6*time.Hour)
		if got := b.rooms.bodies(lounge)[3:]; !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
		quiet(w, a, b, 4*time.Hour)
	})
}

func TestTheWriterCanBeOffWhenTheReaderComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		b.stop()
		for i := range 10 {
			a.rooms.send(t, lounge, fmt.Sprint(i))
		}
		time.Sleep(time.Minute)
		a.stop()
		b.start()
		w.has(b, lounge, 10, 10*time.Minute)
	})
}

func TestFaultsOfAStoreHeal(t *testing.T) {
	plays := map[string]struct {
		on, off func(s *fakeStore)
	}{
		"down": {func(s *fakeStore) { s.down = errors.New("dead") }, func(s *fakeStore) { s.down = nil }},
		"full": {func(s *fakeStore) { s.full = true }, func(s *fakeStore) { s.full = false }},
		"garbage for every GET": {
			func(s *fakeStore) { s.swap = func(_ mailbox.Handle, b *[mailbox.BoxSize]byte) { rand.Read(b[:]) } },
			func(s *fakeStore) { s.swap = nil }},
		"a flipped bit in every box": {
			func(s *fakeStore) { s.swap = func(_ mailbox.Handle, b *[mailbox.BoxSize]byte) { b[77] ^= 1 } },
			func(s *fakeStore) { s.swap = nil }},
		"hides what is written": {
			func(s *fakeStore) { s.hide = func(mailbox.Handle) bool { return true } },
			func(s *fakeStore) { s.hide = nil }},
		"lists handles of nobody": {
			func(s *fakeStore) {
				s.lie = func(p *mailbox.Page) {
					for range 30 {
						var h mailbox.Handle
						rand.Read(h[:])
						p.Handles = append(p.Handles, h)
					}
				}
			},
			func(s *fakeStore) { s.lie = nil }},
		"claims that every id is taken": {
			func(s *fakeStore) { s.putErr = func(mailbox.BoxID) error { return mailbox.ErrExists } },
			func(s *fakeStore) { s.putErr = nil }},
		"loses every box":        {func(s *fakeStore) {}, func(s *fakeStore) { s.lose() }},
		"clock two hours behind": {func(s *fakeStore) { s.skew = -time.Hour }, func(s *fakeStore) {}},
		"clock ahead":            {func(s *fakeStore) { s.skew = time.Hour }, func(s *fakeStore) {}},
	}
	for name, play := range plays {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, a, b := pair(t)
				defer w.stopAll()
				s := w.store(0)
				talk(t, w, a, b, 2, 10*time.Minute)
				quiet(w, a, b, 20*time.Minute)
				s.set(play.on)
				for i := range 5 {
					a.rooms.send(t, lounge, fmt.Sprint("in trouble ", i))
					b.rooms.send(t, lounge, fmt.Sprint("me too ", i))
				}
				time.Sleep(2 * time.Minute)
				s.set(play.off)
				w.has(b, lounge, 12, 2*time.Hour)
				w.has(a, lounge, 12, 2*time.Hour)
				quiet(w, a, b, 4*time.Hour)
				// Boxes that were given up by their sender leave no hole.
				talk(t, w, a, b, 3, time.Hour)
				t.Logf("%+v", a.engine.Counts())
			})
		})
	}
}

func TestABoxThatOneStoreReplacedForGoodIsSealedAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		s := w.store(0)
		talk(t, w, a, b, 2, 10*time.Minute)
		// The next box is swallowed for ever: the store says OK and gives garbage.
		var victim mailbox.BoxID
		s.mu.Lock()
		next, _ := a.engine.contacts[b.name()].pair.Next()
		victim = next.ID
		s.swap = func(h mailbox.Handle, box *[mailbox.BoxSize]byte) {
			if h == victim.Handle() {
				rand.Read(box[:])
			}
		}
		s.mu.Unlock()
		for i := range 6 {
			a.rooms.send(t, lounge, fmt.Sprint("x", i))
			time.Sleep(20 * time.Second)
		}
		w.has(b, lounge, 8, time.Hour)
		quiet(w, a, b, 4*time.Hour)
		if n := a.engine.Counts().Resealed; n == 0 {
			t.Error("nothing was sealed anew")
		}
		w.until(4*time.Hour, "no unacknowledged boxes of before", func() bool {
			a.engine.mu.Lock()
			defer a.engine.mu.Unlock()
			for _, bx := range a.engine.contacts[b.name()].boxes {
				if time.Since(bx.created) > 30*time.Minute {
					return false
				}
			}
			b.engine.mu.Lock()
			defer b.engine.mu.Unlock()
			next, _ := b.engine.contacts[a.name()].pair.Receivers()[0].Ack()
			return next > 2
		})
		if s.reused() != 0 {
			t.Error("an index was used twice")
		}
	})
}

func TestRecordsLargerThanABoxCross(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		want := []string{"small", noise(60_000), "between", noise(30_000), noise(9_000), "end"}
		for _, x := range want {
			a.rooms.send(t, lounge, x)
		}
		w.has(b, lounge, len(want), time.Hour)
		if got := b.rooms.bodies(lounge); !slices.Equal(got, want) {
			t.Error("the events are not those that were sent, or not in order")
		}
		quiet(w, a, b, time.Hour)
		for _, n := range []*node{a, b} {
			for _, table := range []byte{tableBox, tableBoxMeta, tableItem, tableFragment, tableInbox, tableAssembly, tableWant} {
				if k := rows(t, n, table); k > 0 && !(n == b && table <= tableBox) {
					t.Errorf("%d rows are left in table %#x", k, table)
				}
			}
		}
	})
}

// rows counts the rows of a table.
func rows(t *testing.T, n *node, table byte) (count int) {
	t.Helper()
	if err := n.kv.View(func(r store.Reader) error {
		return r.Scan([]byte{table}, nil, func(_, _ []byte) (bool, error) { count++; return true, nil })
	}); err != nil {
		t.Fatal(err)
	}
	return count
}

func TestAnInviteCarriesTheRoomsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		const den matrix.RoomID = "!den:x"
		a.rooms.join(den, a.name())
		ev := a.rooms.send(t, den, strings.Repeat("history ", 4000))
		if err := a.kv.Update(func(txn store.Txn) error {
			return store.Enqueue(txn, string(b.name()), store.ItemInvite, []byte(string(den)+"\x00"+string(ev)))
		}); err != nil {
			t.Fatal(err)
		}
		w.has(b, den, 1, 10*time.Minute)
	})
}

func TestItemsThatNameNothingAreDroppedAndDoNotBlock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		if err := a.kv.Update(func(txn store.Txn) error {
			for _, it := range []struct {
				kind byte
				data string
			}{{store.ItemEvent, "!lounge:x\x00$nothing"}, {store.ItemEvent, "no separator"}, {store.ItemInvite, "!x:y\x00$z"},
				{store.ItemRecord, ""}, {77, "?"}} {
				if err := store.Enqueue(txn, string(b.name()), it.kind, []byte(it.data)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		talk(t, w, a, b, 2, 10*time.Minute)
		quiet(w, a, b, time.Hour)
		if n := a.engine.Counts().Unsent; n != 5 {
			t.Errorf("%d items were dropped, want 5", n)
		}
	})
}

func TestWhatABoxLostIsAskedForAndCertificatesGoAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a, b, c := w.node(1, fast()), w.node(2, fast()), w.node(3, fast())
		for _, n := range []*node{a, b, c} {
			n.start()
		}
		defer w.stopAll()
		w.contact(a, b)
		w.contact(a, c)
		// b and c are no contacts: what c says reaches b because a's next event names it as its parent.
		for _, n := range []*node{a, b, c} {
			n.rooms.join(lounge, a.name(), b.name(), c.name())
		}
		b.rooms.needCert = true
		for i := range 5 {
			c.rooms.send(t, lounge, fmt.Sprint("from c ", i))
		}
		w.has(a, lounge, 5, 10*time.Minute)
		a.rooms.send(t, lounge, "from a")
		w.has(b, lounge, 6, time.Hour)
		if _, ok := b.rooms.certs[c.name()]; !ok {
			t.Error("c's certificate did not come with its events")
		}
		w.until(time.Hour, "no more wants", func() bool { return rows(t, b, tableWant) == 0 })
		st := b.status(c.name())
		if st.State != "" {
			t.Errorf("c is %v for b", st.State)
		}
		if st := c.status(b.name()); st.State != Stranger || st.Waiting != 5 {
			t.Errorf("what waits for b at c: %+v", st)
		}
	})
}

func TestHeadSummariesHealWhatWasNeverSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		talk(t, w, a, b, 1, 10*time.Minute)
		// An event that is in a's room without any outbox row, as after a lost record.
		raw, err := json.Marshal(fakeEvent{ID: "$orphan", Room: lounge, Sender: "@u:" + string(a.name()), Body: "orphan"})
		if err != nil {
			t.Fatal(err)
		}
		a.rooms.mu.Lock()
		a.rooms.insert(fakeEvent{ID: "$orphan", Room: lounge}, raw)
		a.rooms.mu.Unlock()
		w.has(b, lounge, 2, time.Hour)
	})
}

func TestARoomThatFailsForAWhileLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		b.rooms.mu.Lock()
		b.rooms.fail = errors.New("disk full")
		b.rooms.mu.Unlock()
		for i := range 5 {
			a.rooms.send(t, lounge, fmt.Sprint(i))
		}
		time.Sleep(5 * time.Minute)
		if rows(t, b, tableInbox) == 0 {
			t.Fatal("the inbox is empty though nothing could be taken")
		}
		b.stop()
		b.start()
		b.rooms.mu.Lock()
		b.rooms.fail = nil
		b.rooms.mu.Unlock()
		w.has(b, lounge, 5, time.Hour)
		w.until(time.Hour, "an empty inbox", func() bool { return rows(t, b, tableInbox) == 0 })
	})
}

func TestRecordsThatAreRefusedAreCountedAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		b.rooms.mu.Lock()
		b.rooms.fail = fmt.Errorf("x: %w", room.ErrBadEvent)
		b.rooms.mu.Unlock()
		a.rooms.send(t, lounge, "bad")
		quiet(w, a, b, time.Hour)
		w.until(time.Minute, "an empty inbox", func() bool { return rows(t, b, tableInbox) == 0 })
		if b.engine.Counts().Refused == 0 {
			t.Error("the refusal was not counted")
		}
		for _, kind := range []bundle.Type{bundle.TypeEvents, bundle.TypeSnapshot, bundle.TypeCertificate, bundle.TypeWant, bundle.TypeHeads,
			bundle.TypeReceipts, bundle.TypeContact, typeHello, 200} {
			if err := a.kv.Update(func(txn store.Txn) error {
				return store.Enqueue(txn, string(b.name()), store.ItemRecord, append([]byte{byte(kind)}, bytes.Repeat([]byte{0xff}, 40)...))
			}); err != nil {
				t.Fatal(err)
			}
		}
		quiet(w, a, b, time.Hour)
		w.until(time.Minute, "an empty inbox", func() bool { return rows(t, b, tableInbox) == 0 })
		if n := b.engine.Counts().Refused; n < 9 {
			t.Errorf("%d records were refused, want 9", n)
		}
	})
}

func TestOverAThousandBoxesForAPeerThatIsOffWaitInTheOutbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		p := CustomProfile(100*time.Millisecond, 0.1)
		p.Retransmit, p.RetransmitMax = time.Hour, 12*time.Hour
		a, b := w.node(1, p), w.node(2, p)
		a.start()
		b.start()
		w.friends(a, b)
		defer w.stopAll()
		b.stop()
		const n = 1100
		for i := range n {
			a.rooms.send(t, lounge, fmt.Sprint(i))
			time.Sleep(210 * time.Millisecond)
		}
		time.Sleep(5 * time.Minute)
		if u := a.status(b.name()).Unacked; u > maxUnacked {
			t.Errorf("%d boxes are unacknowledged, at most %d may be", u, maxUnacked)
		}
		b.start()
		w.has(b, lounge, n, 2*time.Hour)
		quiet(w, a, b, 4*time.Hour)
	})
}

// A room goes on without what was asked for in vain, but it is asked for further; not while somebody may still give it.
func TestWhatNobodyGivesIsGivenUpAfterAskingAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a, b, c := w.node(1, fast()), w.node(2, fast()), w.node(3, fast())
		for _, n := range []*node{a, b, c} {
			n.start()
		}
		defer w.stopAll()
		w.contact(a, b)
		w.contact(b, c)
		for _, n := range []*node{a, b, c} {
			n.rooms.join(lounge, a.name(), b.name(), c.name())
		}
		lost := matrix.EventID("$lost")
		a.rooms.mu.Lock()
		a.rooms.heads[lounge] = []matrix.EventID{lost}
		a.rooms.mu.Unlock()
		a.rooms.send(t, lounge, "after what a does not have")
		tries := func() (n int) {
			b.engine.mu.Lock()
			defer b.engine.mu.Unlock()
			for _, o := range b.engine.contacts {
				if x := o.wants[wantKey{lounge, lost}]; x != nil {
					n = max(n, x.tries)
				}
			}
			return n
		}
		givenUp := func() []matrix.EventID {
			b.rooms.mu.Lock()
			defer b.rooms.mu.Unlock()
			return slices.Clone(b.rooms.without)
		}
		w.until(24*time.Hour, "it is asked for", func() bool { return tries() == doneWithout-1 })
		if len(givenUp()) > 0 {
			t.Error("given up too soon")
		}
		w.until(24*time.Hour, "it is given up", func() bool { return len(givenUp()) > 0 })
		if n := tries(); n < doneWithout || givenUp()[0] != lost {
			t.Errorf("%v after %d tries", givenUp(), n)
		}
		known := len(givenUp())
		w.until(24*time.Hour, "it is asked for further", func() bool { return tries() > doneWithout })
		w.until(24*time.Hour, "what came to wait since goes on too", func() bool { return len(givenUp()) > known })
	})
}
