// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
	"tarn/store/storetest"
)

// What a hostile review looked for: each test failed when it was written, but for those that say otherwise.

// A store that sees one handle asked for again and again before anybody wrote it knows that these requests, each on a
// circuit of its own, come from one node; and when the box is written, that it is real, and whose stream goes on.
func TestAnIdleNodeDoesNotAskAgainAndAgainForTheBoxThatComesNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		talk(t, w, a, b, 3, 10*time.Minute)
		talk(t, w, b, a, 3, 10*time.Minute)
		a.rooms.join(lounge, a.name()) // no summaries
		b.rooms.join(lounge, b.name())
		quiet(w, a, b, time.Hour)
		time.Sleep(10 * time.Minute)
		asked := map[mailbox.Handle]int{}
		s := w.store(0)
		s.set(func(s *fakeStore) {
			s.swap = func(h mailbox.Handle, _ *[mailbox.BoxSize]byte) {
				if _, ok := s.handles[h]; !ok {
					asked[h]++
				}
			}
		})
		time.Sleep(2 * time.Hour)
		s.set(func(s *fakeStore) { s.swap = nil })
		most := 0
		for _, n := range asked {
			most = max(most, n)
		}
		if most > 4 {
			t.Errorf("one handle that is not there was asked for %d times in 2 h", most)
		}
	})
}

// A box that is missing while later ones came is looked for, but not in every other slot.
func TestAHoleIsProbedForWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		talk(t, w, a, b, 1, 10*time.Minute)
		quiet(w, a, b, time.Hour)
		a.engine.mu.Lock()
		slot, _ := a.engine.contacts[b.name()].pair.Next()
		a.engine.mu.Unlock()
		victim := mailbox.BoxID(slot.ID).Handle()
		asked := 0
		s := w.store(0)
		s.set(func(s *fakeStore) {
			s.hide = func(h mailbox.Handle) bool { return h == victim }
			s.putErr = func(id mailbox.BoxID) error {
				if id == slot.ID {
					return mailbox.ErrBusy // it never gets there, and the writer goes on trying
				}
				return nil
			}
			s.swap = func(h mailbox.Handle, _ *[mailbox.BoxSize]byte) {
				if h == victim {
					asked++
				}
			}
		})
		a.rooms.send(t, lounge, "lost")
		time.Sleep(time.Minute)
		a.rooms.send(t, lounge, "later")
		time.Sleep(time.Hour)
		var n int
		s.set(func(*fakeStore) { n = asked })
		if n == 0 || n > 14 {
			t.Errorf("the missing box was asked for %d times in an hour, want 1 to 14", n)
		}
		s.set(func(s *fakeStore) { s.putErr, s.swap = nil, nil })
		w.has(b, lounge, 3, 4*time.Hour)
	})
}

// An own stream's index 0 comes again when a contact is made anew. What the old stream brought and nobody could take
// yet must not give way to it.
func TestANewLinkDoesNotOverwriteWhatWaitsInTheInbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		p := fast()
		p.Heads = 1000 * time.Hour // nothing heals it behind our back
		a, b := w.node(1, p), w.node(2, p)
		a.start()
		b.start()
		defer w.stopAll()
		w.contact(a, b)
		rooms := make([]matrix.RoomID, 12)
		for i := range rooms {
			rooms[i] = matrix.RoomID(fmt.Sprintf("!r%d:x", i))
			a.rooms.join(rooms[i], a.name(), b.name())
			b.rooms.join(rooms[i], a.name(), b.name())
		}
		fail := func(err error) {
			b.rooms.mu.Lock()
			b.rooms.fail = err
			b.rooms.mu.Unlock()
		}
		fail(storetest.ErrDied)
		for _, r := range rooms[:6] {
			a.rooms.send(t, r, "old stream")
			time.Sleep(10 * time.Second)
		}
		w.until(time.Hour, "acknowledgements", func() bool { return a.status(b.name()).Waiting == 0 })
		first, second := a.status(b.name()).Created, b.status(a.name()).Created
		w.contact(a, b)
		w.until(time.Hour, "both on the new streams", func() bool {
			return a.status(b.name()).Created.After(first) && b.status(a.name()).Created.After(second)
		})
		for _, r := range rooms[6:] {
			a.rooms.send(t, r, "new stream")
			time.Sleep(10 * time.Second)
		}
		w.until(time.Hour, "acknowledgements", func() bool { return a.status(b.name()).Waiting == 0 })
		fail(nil)
		for _, r := range rooms {
			w.until(2*time.Hour, fmt.Sprintf("the event of %s", r), func() bool { return len(b.rooms.bodies(r)) == 1 })
		}
		w.until(time.Hour, "an empty inbox", func() bool { return rows(t, b, tableInbox) == 0 })
		b.engine.mu.Lock()
		left := b.engine.contacts[a.name()].inbox
		b.engine.mu.Unlock()
		if left != 0 {
			t.Errorf("%d rows are counted in an empty inbox", left)
		}
	})
}

// The page of a higher level begins before what the store still has: its younger buckets are read by lower levels.
func TestTheFarEndOfTheDigestIsReadByLowerLevels(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		box := mailboxtest.New(t, mailboxtest.WithConfig(func(c *mailboxstore.Config) { c.Bucket = 10 * time.Second }))
		w := newWorld(t, 1)
		p := CustomProfile(10*time.Second, 0.3)
		a, b := realNode(t, w, 1, box, p), realNode(t, w, 2, box, p)
		w.friends(a, b)
		quiet(w, a, b, time.Hour)
		b.stop()
		time.Sleep(time.Until(playStart.Add(7 * time.Hour))) // three hours into a page of level 2
		a.rooms.send(t, lounge, "old")
		w.until(time.Hour, "the box in the mailbox", func() bool {
			a.engine.mu.Lock()
			defer a.engine.mu.Unlock()
			for _, bx := range a.engine.contacts[b.name()].boxes {
				if len(bx.carried) > 0 && bx.attempts > 0 {
					return true
				}
			}
			return false
		})
		a.stop()
		time.Sleep(time.Until(playStart.Add(7*time.Hour + 14*24*time.Hour - 90*time.Minute)))
		startReal(t, b, box)
		defer w.stopAll()
		w.has(b, lounge, 1, 90*time.Minute)
	})
}

// A node whose clock was ahead when it began to follow a store has a place in the future on its disk.
func TestACursorInTheFutureDoesNotMakeANodeDeaf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		b.stop()
		for i := range 5 {
			a.rooms.send(t, lounge, fmt.Sprint("before ", i))
		}
		time.Sleep(time.Minute)
		future := mailbox.BucketAt(time.Now().Add(2*time.Hour), w.store(0).bucket)
		if err := b.kv.Update(func(txn store.Txn) error {
			return txn.Set(store.Key(tableDigest, string(w.store(0).address.Onion)), binary.BigEndian.AppendUint64(nil, future))
		}); err != nil {
			t.Fatal(err)
		}
		b.start()
		w.has(b, lounge, 5, 20*time.Minute)
		talk(t, w, a, b, 3, 20*time.Minute)
	})
}

// The same while it runs: the clock is set back by two hours.
func TestAFollowerWhoseClockGoesBackReadsOn(t *testing.T) {
	const keep = 14 * 8640
	var f follower
	f.begin(1_000_000+720, &descriptor{bucket: 10 * time.Second, ttl: 14 * 24 * time.Hour})
	read := func(n int) map[uint64]bool {
		out := map[uint64]bool{}
		for range n {
			p, ok := f.next(1)
			if !ok {
				break
			}
			from, to, _ := p.Buckets()
			if to > 1_000_000+100 {
				t.Fatalf("page %v is in the future", p)
			}
			for b := from; b < to; b++ {
				out[b] = true
			}
			f.settle(span{from, to}, true)
		}
		return out
	}
	f.advance(1_000_000, 1_000_000)
	f.advance(1_000_000+100, 1_000_000+100)
	got := read(2000)
	for b := uint64(1_000_000 + 100 - keep + 1440); b < 1_000_000+100; b++ {
		if !got[b] {
			t.Fatalf("bucket %d was not read", b)
		}
	}
	if c := f.cursor(); c != 1_000_000+100 {
		t.Errorf("the cursor is at %d", c)
	}
}

func TestAContactLearnsStoresThatChangedBetweenLinkAndReply(t *testing.T) {
	for _, who := range []string{"inviter", "acceptor"} {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2)
				a, b := w.node(1, fast()), w.node(2, fast())
				old, next := w.store(0).address, w.store(1).address
				a.own, b.own = []mailbox.Address{old}, []mailbox.Address{old}
				a.start()
				b.start()
				defer w.stopAll()
				l, err := a.engine.Invite(context.Background(), 0)
				if err != nil {
					t.Fatal(err)
				}
				mover, other := a, b
				if who == "inviter" {
					w.until(time.Hour, "the deposit", func() bool {
						cs, _ := a.engine.Contacts()
						return len(cs) == 1 && cs[0].Deposited
					})
					a.stop()
					if _, err := b.engine.Accept(context.Background(), l); err != nil {
						t.Fatal(err)
					}
					w.until(time.Hour, "the reply", func() bool { return b.state(a.name()) == Active })
				} else {
					mover, other = b, a
					w.until(time.Hour, "the deposit", func() bool {
						cs, _ := a.engine.Contacts()
						return len(cs) == 1 && cs[0].Deposited
					})
					if _, err := b.engine.Accept(context.Background(), l); err != nil {
						t.Fatal(err)
					}
					w.store(0).set(func(s *fakeStore) { s.full = false; s.putErr = func(mailbox.BoxID) error { return mailbox.ErrBusy } })
					w.until(time.Hour, "the payload", func() bool {
						b.engine.mu.Lock()
						defer b.engine.mu.Unlock()
						for _, x := range b.engine.accepts {
							if x.state == acceptReplying {
								return true
							}
						}
						return false
					})
					b.stop()
					w.store(0).set(func(s *fakeStore) { s.putErr = nil })
				}
				mover.own = []mailbox.Address{next, old}
				mover.start()
				w.until(2*time.Hour, "word of the new store", func() bool {
					other.engine.mu.Lock()
					defer other.engine.mu.Unlock()
					c := other.engine.contacts[mover.name()]
					return c != nil && slices.Contains(c.stores, next)
				})
			})
		})
	}
}

// Two people who each make a link and each accept the other's must end on the same streams, whichever reply is read first.
func TestLinksThatCrossEndOnOneStreamPair(t *testing.T) {
	for seed := range byte(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 2)
				a, b := w.node(2*seed+1, fast()), w.node(2*seed+2, fast())
				a.start()
				b.start()
				defer w.stopAll()
				la, err := a.engine.Invite(context.Background(), 0)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Duration(seed) * 700 * time.Millisecond)
				lb, err := b.engine.Invite(context.Background(), 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := a.engine.Accept(context.Background(), lb); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Duration(seed%3) * 2 * time.Second)
				if _, err := b.engine.Accept(context.Background(), la); err != nil {
					t.Fatal(err)
				}
				a.rooms.join(lounge, a.name(), b.name())
				b.rooms.join(lounge, a.name(), b.name())
				w.until(time.Hour, "contacts", func() bool { return a.state(b.name()) == Active && b.state(a.name()) == Active })
				time.Sleep(10 * time.Minute)
				talk(t, w, a, b, 2, 2*time.Hour)
				talk(t, w, b, a, 2, 2*time.Hour)
				if x, y := a.status(b.name()).Number, b.status(a.name()).Number; x == "" || x != y {
					t.Errorf("the numbers are %q and %q", x, y)
				}
			})
		})
	}
}

func TestRowsOfBoxesThatNobodyWaitsForAnyMoreGoAtTheNextStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		talk(t, w, a, b, 1, 10*time.Minute)
		b.stop()
		if err := b.kv.Update(func(txn store.Txn) error {
			for i := range byte(9) {
				td := todo{handle: mailbox.Handle{i}, row: [8]byte{i}, listed: time.Now()}
				if err := txn.Set(td.key(&depot{address: w.store(0).address}), td.marshal()); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		b.start()
		if n := rows(t, b, tableTodo); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	})
}

// This one held from the beginning: boxes that a store let expire are written again, and listed again.
func TestAPeerThatIsOffForLongerThanAStoreKeepsBoxesGetsEverythingOnceAndInOrder(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		box := mailboxtest.New(t, mailboxtest.WithConfig(func(c *mailboxstore.Config) { c.Bucket = 5 * time.Minute }))
		w := newWorld(t, 1)
		p := CustomProfile(10*time.Minute, 0.1)
		p.Retransmit, p.RetransmitMax = 2*time.Hour, 12*time.Hour
		a, b := realNode(t, w, 1, box, p), realNode(t, w, 2, box, p)
		l, err := a.engine.Invite(context.Background(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.engine.Accept(context.Background(), l); err != nil {
			t.Fatal(err)
		}
		w.until(24*time.Hour, "the contact", func() bool {
			return a.state(b.name()) == Active && b.status(a.name()).Number != ""
		})
		a.rooms.join(lounge, a.name(), b.name())
		b.rooms.join(lounge, a.name(), b.name())
		talk(t, w, a, b, 2, 24*time.Hour)
		b.stop()
		var want []string
		for i := range 50 {
			time.Sleep(20 * 24 * time.Hour / 50)
			want = append(want, fmt.Sprint("while you were away ", i))
			a.rooms.send(t, lounge, want[i])
		}
		startReal(t, b, box)
		defer w.stopAll()
		w.has(b, lounge, 52, 4*24*time.Hour)
		if got := b.rooms.bodies(lounge)[2:]; !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
		quiet(w, a, b, 4*24*time.Hour)
	})
}

// A serial is a time; a clock that was ahead once must not make all later words about our stores unbelievable.
func TestWordOfNewStoresIsBelievedAfterAClockThatWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		a, b := w.node(2, fast()), w.node(4, fast())
		a.start()
		b.start()
		defer w.stopAll()
		w.contact(a, b)
		move := func(to mailbox.Address) {
			a.stop()
			a.own = []mailbox.Address{to}
			a.start()
		}
		move(w.store(1).address)
		a.engine.mu.Lock()
		c := a.engine.contacts[b.name()]
		c.toldSerial += uint64((48 * time.Hour).Milliseconds()) // as if the clock had been two days ahead
		row := c.contactRow
		a.engine.mu.Unlock()
		b.engine.mu.Lock()
		b.engine.contacts[a.name()].serial = row.toldSerial
		b.engine.mu.Unlock()
		if err := a.kv.Update(func(txn store.Txn) error {
			return txn.Set(store.Key(tableContact, string(b.name())), row.marshal())
		}); err != nil {
			t.Fatal(err)
		}
		move(w.store(0).address)
		w.until(2*time.Hour, "word of the new store", func() bool {
			b.engine.mu.Lock()
			defer b.engine.mu.Unlock()
			return slices.Equal(b.engine.contacts[a.name()].stores, a.own)
		})
	})
}

func TestNoMoreIsFetchedFromAContactWhoseFinishedRecordsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		b.engine.mu.Lock()
		b.engine.contacts[a.name()].bytes += maxHeld
		b.engine.mu.Unlock()
		a.rooms.send(t, lounge, "too much")
		time.Sleep(10 * time.Minute)
		if n := len(b.rooms.bodies(lounge)); n != 0 {
			t.Errorf("%d events were taken", n)
		}
		b.engine.mu.Lock()
		b.engine.contacts[a.name()].bytes -= maxHeld
		b.engine.mu.Unlock()
		w.has(b, lounge, 1, time.Hour)
	})
}

// A snapshot is up to 4 MiB with thousands of signatures: one that is refused must not be checked again for two weeks.
func TestABadSnapshotIsNotTriedAgain(t *testing.T) {
	if err := permanent(fmt.Errorf("taking an invite: %w: no create event", room.ErrBadSnapshot)); !errors.Is(err, errRefuse) {
		t.Error("it is tried again")
	}
	if err := permanent(fmt.Errorf("taking an invite: %w: %w", room.ErrBadSnapshot, matrix.ErrUnknownKey)); errors.Is(err, errRefuse) {
		t.Error("one that lacks a certificate is not tried again")
	}
}

// Until a store was reached for the first time since the start, the cursor on disk is all that is known of it.
func TestAStoreThatIsDownAtTheStartIsReadOnFromTheCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		talk(t, w, a, b, 1, 10*time.Minute)
		time.Sleep(time.Hour)
		b.stop()
		w.store(0).set(func(s *fakeStore) { s.down = errors.New("dead") })
		b.start()
		cursor := func() uint64 {
			b.engine.mu.Lock()
			defer b.engine.mu.Unlock()
			f := &b.engine.depots[w.store(0).address].follow
			if f.begun {
				return f.cursor()
			}
			return f.saved
		}
		before := cursor()
		time.Sleep(3 * time.Minute)
		if after := cursor(); before == 0 || after != before {
			t.Errorf("the cursor went from %d to %d", before, after)
		}
		w.store(0).set(func(s *fakeStore) { s.down = nil })
		w.until(time.Minute, "the descriptor", func() bool { return cursor() > before })
	})
}
