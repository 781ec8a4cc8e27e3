// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"tarn/bundle"
	"tarn/crypto/ratchet"
	"tarn/mailbox"
	"tarn/store"
)

// benchContact is an engine with one contact, and the contact's own halves of the streams.
func benchContact(b *testing.B) (*Engine, *node, *contact, ratchet.Receiver, ratchet.Sender) {
	w := newWorld(b, 1)
	n, peer := w.node(1, Balanced()), w.node(2, Balanced())
	e := n.open()
	root := ratchet.Root{1}
	c := newContact(peer.name(), contactRow{state: contactActive, initiator: true, stores: n.own, told: n.own})
	if err := e.begin(c, root, time.Now(), func(store.Txn) error { return nil }); err != nil {
		b.Fatal(err)
	}
	n.rooms.join(lounge, n.name(), peer.name())
	return e, n, c, ratchet.NewReceiver(root, 0, false), ratchet.NewSender(root, 0, false)
}

// BenchmarkFillAndSeal is one PUT slot with something to say: read the outbox, pack, seal, one Update in memory.
func BenchmarkFillAndSeal(b *testing.B) {
	for _, events := range []int{1, 8} {
		b.Run(fmt.Sprint("events=", events), func(b *testing.B) {
			e, n, c, _, _ := benchContact(b)
			noise := make([]byte, 400)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				for range events {
					rand.Read(noise)
					n.rooms.send(b, lounge, fmt.Sprintf("%x", noise))
				}
				c.peerNext = c.pair.Index()
				b.StartTimer()
				if _, ok := e.putNew(c, &where{places: e.routes.Load().own, direct: true, left: e.left}, time.Now().Add(-time.Hour)); !ok {
					b.Fatal("nothing to send")
				}
			}
		})
	}
}

// BenchmarkReceive is one GET that succeeds: find the slot, open, unpack, one Update in memory.
func BenchmarkReceive(b *testing.B) {
	e, _, c, _, sender := benchContact(b)
	st := e.routes.Load().own[0]
	p := bundle.NewPacker(bundle.Head{})
	p.Add(bundle.Record{Type: bundle.TypeReceipts, Data: make([]byte, 500)})
	plain := p.Pack()
	b.ReportAllocs()
	for b.Loop() {
		var slot ratchet.Slot
		slot, sender = sender.Next()
		box := (*[mailbox.BoxSize]byte)(slot.Seal(plain))
		t := &todo{handle: mailbox.BoxID(slot.ID).Handle(), ref: ref{contact: c, at: boxAt{slot.Epoch, slot.Index}}}
		if err := e.openBox(st, t, box); err != nil {
			b.Fatal(err)
		}
		c.inbox = 0
	}
}

// BenchmarkReadPage matches a full digest page of strangers' handles against 50 contacts' windows.
func BenchmarkReadPage(b *testing.B) {
	w := newWorld(b, 1)
	n := w.node(1, Balanced())
	e := n.open()
	for i := range 50 {
		id := testIdentity(byte(100 + i))
		c := newContact(id.Name, contactRow{state: contactActive, stores: n.own, told: n.own})
		if err := e.begin(c, ratchet.Root{byte(i)}, time.Now(), func(store.Txn) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%d handles expected", len(e.expected))
	st := e.routes.Load().own[0]
	page := mailbox.Page{Parts: 1, Handles: make([]mailbox.Handle, mailbox.PageHandles)}
	for i := range page.Handles {
		rand.Read(page.Handles[i][:])
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := e.readPage(st, page, time.Second); err != nil {
			b.Fatal(err)
		}
	}
}
