// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/crypto/ratchet"
	"tarn/crypto/sealed"
	"tarn/mailbox"
	"tarn/store"
)

// backup is a copy of a node's database and rooms as they are now.
func (n *node) backup() []byte {
	var b bytes.Buffer
	if err := store.Backup(n.kv, &b); err != nil {
		n.t.Fatal(err)
	}
	return b.Bytes()
}

// restore kills the node, and starts it again with the backup's database.
func (n *node) restore(b []byte) {
	n.t.Helper()
	n.stop()
	kv := store.OpenMemory()
	if err := store.Restore(kv, bytes.NewReader(b)); err != nil {
		n.t.Fatal(err)
	}
	if err := MarkRestored(kv); err != nil {
		n.t.Fatal(err)
	}
	n.kv = kv
	n.start()
}

// forget takes a node's rooms back to their first events.
func (f *fakeRooms) forget(keep int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ev := range f.order[min(keep, len(f.order)):] {
		for _, evs := range f.events {
			delete(evs, ev)
		}
	}
	f.order = f.order[:min(keep, len(f.order))]
	clear(f.waiting)
	clear(f.heads)
	if len(f.order) > 0 {
		f.heads[lounge] = f.order[len(f.order)-1:]
	}
}

func TestARestoredBackupHealsByItselfAndReusesNoIndex(t *testing.T) {
	measures(t)
	for what, who := range map[string]struct{ a, b bool }{"the initiator": {true, false}, "the other one": {false, true}, "both": {true, true}} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, a, b := pair(t)
				defer w.stopAll()
				n := 0
				say := func(count int) {
					for range count {
						from, to := a, b
						if n%2 == 1 {
							from, to = b, a
						}
						n++
						from.rooms.send(t, lounge, fmt.Sprint("m", n))
						w.has(to, lounge, n, time.Minute)
					}
				}
				say(6)
				// One that is under way when the backup is made, and is acknowledged later.
				a.rooms.send(t, lounge, "half way")
				n++
				backups := map[*node][]byte{a: a.backup(), b: b.backup()}
				kept := map[*node]int{a: len(a.rooms.bodies(lounge)), b: len(b.rooms.bodies(lounge))}
				w.has(b, lounge, n, time.Minute)
				say(100) // more than an epoch
				time.Sleep(30 * time.Minute)
				// Something that the restored node wrote, and that nobody has read, is lost with it; what the others
				// wrote is not.
				late := 0
				for _, x := range []struct {
					n   *node
					yes bool
				}{{a, who.a}, {b, who.b}} {
					if !x.yes {
						x.n.rooms.send(t, lounge, "said meanwhile")
						n++
						late++
					}
				}
				if who.a {
					a.restore(backups[a])
					a.rooms.forget(kept[a])
				}
				if who.b {
					b.restore(backups[b])
					b.rooms.forget(kept[b])
				}
				asks := func(n, peer *node) bool { return strings.Contains(n.status(peer.name()).Reason, "backup") }
				if asks(a, b) != who.a || asks(b, a) != who.b {
					t.Errorf("the contacts say %q and %q", a.status(b.name()).Reason, b.status(a.name()).Reason)
				}
				if who.a && who.b {
					n = min(kept[a], kept[b]) // what neither has is gone
				}
				a.rooms.send(t, lounge, "after a's")
				b.rooms.send(t, lounge, "after b's")
				w.until(6*time.Hour, "both have what was said after", func() bool {
					return slices.Contains(a.rooms.bodies(lounge), "after b's") && slices.Contains(b.rooms.bodies(lounge), "after a's")
				})
				w.until(24*time.Hour, "nothing is lost", func() bool {
					return len(a.rooms.bodies(lounge)) >= n+2 && len(b.rooms.bodies(lounge)) >= n+2
				})
				quiet(w, a, b, 12*time.Hour)
				x, y := a.streams(b.name()), b.streams(a.name())
				if x.Epoch() < 1<<20 || y.Epoch() < 1<<20 {
					t.Errorf("epochs %d and %d", x.Epoch(), y.Epoch())
				}
				if r := w.store(0).reused(); r != 0 {
					t.Errorf("%d indices were used for two contents", r)
				}
				if rows(t, a, tableRecovery)+rows(t, b, tableRecovery) != 0 {
					t.Error("a recovery is left over")
				}
				if !asks(a, b) || !asks(b, a) {
					t.Error("nothing shows that it happened")
				}
			})
		})
	}
}

func TestARestoredNodeUsesNoLinkOfBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		a, b := w.node(1, fast()), w.node(2, fast())
		a.start()
		b.start()
		defer w.stopAll()
		l := mustInvite(t, a)
		old := a.backup()
		if _, err := b.engine.Accept(context.Background(), l); err != nil {
			t.Fatal(err)
		}
		w.until(time.Hour, "the contact", func() bool { return a.state(b.name()) == Active && b.status(a.name()).Number != "" })
		a.rooms.join(lounge, a.name(), b.name())
		b.rooms.join(lounge, a.name(), b.name())
		talk(t, w, a, b, 3, time.Hour)
		a.restore(old)
		time.Sleep(20 * time.Minute)
		a.restore(a.backup()) // and once more
		time.Sleep(20 * time.Minute)
		if st := a.state(b.name()); st == Active {
			t.Error("the link's answer was read a second time")
		}
		if s := a.link(); s.State != Failed || !strings.Contains(s.Reason, "backup") {
			t.Errorf("the link is %v: %s", s.State, s.Reason)
		}
		if r := w.store(0).reused(); r != 0 {
			t.Errorf("%d indices were used for two contents", r)
		}
	})
}

// A stale request, an answer to another one, and anybody else's words change nothing.
func TestForgedAndStaleRecoveriesChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, a, b := pair(t)
		defer w.stopAll()
		talk(t, w, a, b, 3, time.Hour)
		old := a.backup()
		a.restore(old)
		w.until(6*time.Hour, "the recovery", func() bool {
			p := a.streams(b.name())
			q := b.streams(a.name())
			return p.Epoch() > 1<<20 && q.Epoch() == p.Epoch()
		})
		epoch := b.streams(a.name())
		e := b.engine
		e.mu.Lock()
		c := e.contacts[a.name()]
		st := e.routes.Load().own[0]
		for _, forge := range []func() []byte{
			func() []byte { // signed by another node
				thief := &Engine{self: testIdentity(7)}
				thief.self.Name = a.name() // he says
				body := append([]byte{contactVersion, 0, 0, 0, 0, 0xff, 0, 0, 0}, make([]byte, ratchet.PublicSize)...)
				_, box, err := thief.sealSigned(&contact{name: b.name(), contactRow: contactRow{peerKey: testKeyOf(t, c.ownKey[:])}}, labelRequest, body)
				if err != nil {
					t.Fatal(err)
				}
				return box
			},
			func() []byte { // a request of before
				body := append([]byte{contactVersion, 0, 0, 0, 0, 0, 0, 0, 1}, make([]byte, ratchet.PublicSize)...)
				_, box, err := a.engine.sealSigned(&contact{name: b.name(), contactRow: contactRow{peerKey: testKeyOf(t, c.ownKey[:])}}, labelRequest, body)
				if err != nil {
					t.Fatal(err)
				}
				return box
			},
			func() []byte { // an answer that nobody asked for
				_, box, err := a.engine.sealSigned(&contact{name: b.name(), contactRow: contactRow{peerKey: testKeyOf(t, c.ownKey[:])}}, labelAnswer, append([]byte{contactVersion}, make([]byte, answerSize-1)...))
				if err != nil {
					t.Fatal(err)
				}
				return box
			},
			func() []byte { return []byte("nonsense") },
		} {
			at := recoveryPlace(c.recoverySecret, true, mailbox.Epoch(time.Now()), 3)
			raw, err := at.sealRandom(forge())
			if err != nil {
				t.Fatal(err)
			}
			td := &todo{handle: at.id.Handle(), ref: ref{contact: c, recovery: &at}}
			if err := e.openRecovery(st, td, (*[mailbox.BoxSize]byte)(raw)); err != nil {
				t.Errorf("it is read again: %v", err)
			}
			raw[100] ^= 1
			if err := e.openRecovery(st, td, (*[mailbox.BoxSize]byte)(raw)); err != errBadBox {
				t.Errorf("garbage: %v", err)
			}
		}
		e.mu.Unlock()
		if now := b.streams(a.name()); now.Newest() != epoch.Newest() || now.Epoch() != epoch.Epoch() {
			t.Error("a new epoch began")
		}
	})
}

func testKeyOf(t *testing.T, seed []byte) []byte {
	t.Helper()
	k, err := sealed.ParsePrivateKey(seed)
	if err != nil {
		t.Fatal(err)
	}
	return k.Public().Bytes()
}

func FuzzParseRecovery(f *testing.F) {
	offer, err := ratchet.ParseOffer(bytes.Repeat([]byte{3}, 32))
	if err != nil {
		f.Fatal(err)
	}
	c := &contact{contactRow: contactRow{recoverySecret: [32]byte{1}}}
	r := &recovery{asking: true, lost: true, created: time.Unix(1_800_000_000, 0), offer: offer, request: []byte("request"), sealed: []byte("sealed")}
	if err := c.lay(r, 20000, 1); err != nil {
		f.Fatal(err)
	}
	f.Add(r.marshal(), r.bytes)
	f.Fuzz(func(t *testing.T, row, raw []byte) {
		if v, err := parseRecovery(row); err == nil && !bytes.Equal(v.marshal(), row) {
			t.Errorf("%x is read and written as %x", row, v.marshal())
		}
		box := new([mailbox.BoxSize]byte)
		copy(box[:], raw)
		at := recoveryPlace(c.recoverySecret, false, 20000, 1)
		if content, err := at.openRandom(box); err == nil && string(content) != "sealed" {
			t.Errorf("%x opens", content)
		}
	})
}

func FuzzOpenSigned(f *testing.F) {
	own, peer := testIdentity(1), testIdentity(2)
	from, to := &Engine{self: own}, &Engine{self: peer}
	key := testRecovery(9)
	c := &contact{name: peer.Name, contactRow: contactRow{peerKey: key.Public().Bytes()}}
	back := &contact{name: own.Name, contactRow: contactRow{ownKey: [32]byte(key.Bytes())}}
	_, box, err := from.sealSigned(c, labelRequest, append([]byte{contactVersion}, make([]byte, requestSize-1)...))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(box)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := to.openSigned(back, labelRequest, b, requestSize)
		if err == nil && (len(got) != requestSize+64 || got[0] != contactVersion) || err != nil && got != nil || bytes.Equal(b, box) && err != nil {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	})
}
