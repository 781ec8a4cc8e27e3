// SPDX-License-Identifier: Apache-2.0

package leakage_test

import (
	"encoding/binary"
	"strings"
	"sync"
	"time"

	"tarn/internal/leakage"
	"tarn/mailbox"
	mailboxstore "tarn/mailbox/store"
	"tarn/onion/oniontest"
)

// recorder writes down what the observers see. The stores' engines say when a box is written or read; the nodes' side
// says who asked for it and by which way, which is what a courier that colludes with the store would tell.
type recorder struct {
	mu     sync.Mutex
	zero   time.Time // the world's hour 0; before it nobody chats
	log    leakage.Log
	asked  map[request][]origin
	lost   int            // store operations that nobody asked for
	byHost map[string]int // nodes
}

type request struct {
	store int
	kind  leakage.Kind
	box   uint64
}

type origin struct{ node, courier int }

func (r *recorder) since(t time.Time) time.Duration { return t.Sub(r.zero) }

// ask notes a request that leaves a node and reaches a store about then. Of puts and gets the store's engine says when.
func (r *recorder) ask(node, courier, store int, k leakage.Kind, box uint64, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k != leakage.Put && k != leakage.Get {
		r.log.Ops = append(r.log.Ops, leakage.Op{At: r.since(at), Node: node, Courier: courier, Store: store, Kind: k})
		return
	}
	q := request{store, k, box}
	r.asked[q] = append(r.asked[q], origin{node, courier})
}

// did notes what a store did.
func (r *recorder) did(store int, k leakage.Kind, box uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	q := request{store, k, box}
	o := origin{-1, -1}
	if as := r.asked[q]; len(as) > 1 {
		o, r.asked[q] = as[0], as[1:]
	} else if len(as) == 1 {
		o = as[0]
		delete(r.asked, q)
	} else {
		r.lost++
	}
	r.log.Ops = append(r.log.Ops, leakage.Op{At: r.since(time.Now()), Node: o.node, Courier: o.courier, Store: store, Kind: k, Box: box})
}

func (r *recorder) isFor(box uint64, node int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.Readers[box] = node
}

// packet is the network's tap: bytes of a node, either way.
func (r *recorder) packet(e oniontest.Event) {
	if e.Kind != oniontest.Data || !strings.HasPrefix(e.From, "node") {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log.Packets = append(r.log.Packets, leakage.Packet{At: r.since(e.Time), Node: r.byHost[e.From], Up: e.Up, Size: e.Bytes})
}

func boxName(h mailbox.Handle) uint64 { return binary.BigEndian.Uint64(h[:]) }

// engine is a store's engine that tells what it does.
type engine struct {
	mailboxstore.Engine
	store int
	rec   *recorder
}

func (e *engine) Put(bucket uint64, expires time.Time, boxes []mailboxstore.Box, errs []error) error {
	err := e.Engine.Put(bucket, expires, boxes, errs)
	for _, b := range boxes {
		e.rec.did(e.store, leakage.Put, boxName(b.ID.Handle()))
	}
	return err
}

func (e *engine) Get(h mailbox.Handle, box *[mailbox.BoxSize]byte) (bool, error) {
	e.rec.did(e.store, leakage.Get, boxName(h))
	return e.Engine.Get(h, box)
}
