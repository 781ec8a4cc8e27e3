// SPDX-License-Identifier: Apache-2.0

package leakage

import (
	"cmp"
	"slices"
	"time"
)

// Kind is what a request asks a store to do.
type Kind byte

// The kinds.
const (
	Nothing Kind = iota
	Put
	Get
	Digest
	Describe // fetch the descriptor
)

// Packet is what the network sees of a node: that many bytes at that time.
type Packet struct {
	At   time.Duration
	Node int
	Up   bool
	Size int
}

// Frame is what a courier sees of a session: when, and where the halves go.
type Frame struct {
	At                 time.Duration
	Node, Courier      int
	Put, Get           int // the target stores; the courier itself: -1
	PutDelay, GetDelay time.Duration
}

// Op is what a store does. A store knows the courier that it came from, and not the node; who has the courier's log
// as well knows both.
type Op struct {
	At      time.Duration
	Node    int
	Courier int // -1: direct
	Store   int
	Kind    Kind
	Box     uint64 // the handle of a Put or Get
}

// Listed is what a store's disk says: this box was written in that bucket.
type Listed struct {
	At    time.Duration // the bucket's beginning
	Store int
	Box   uint64
}

// Log is what the observers of a world wrote down together, in the order of time. Each attack takes of it what its
// observer has.
type Log struct {
	Nodes, Hours int
	Packets      []Packet
	Frames       []Frame
	Ops          []Op
	Disk         []Listed
	Stores       [][]int // of each node: where its contacts write
	Couriers     [][]int // of each node
	// Names is how a store calls a node, if it can: the upper half of the handles of its queues or inbox. Tarn's handles
	// have no such thing.
	Names map[uint32]int
	// Readers is the truth about boxes: whom they are for. Cover is not in it.
	Readers map[uint64]int
}

// Sort puts everything in the order of time.
func (l *Log) Sort() {
	slices.SortStableFunc(l.Packets, func(a, b Packet) int { return cmp.Compare(a.At, b.At) })
	slices.SortStableFunc(l.Frames, func(a, b Frame) int { return cmp.Compare(a.At, b.At) })
	slices.SortStableFunc(l.Ops, func(a, b Op) int { return cmp.Compare(a.At, b.At) })
	slices.SortStableFunc(l.Disk, func(a, b Listed) int { return cmp.Compare(a.At, b.At) })
}

// written is who wrote a box first, and when.
type written struct {
	node, courier int
	at            time.Duration
}

// writers is by box.
func (l *Log) writers() map[uint64]written {
	w := map[uint64]written{}
	for _, o := range l.Ops {
		if o.Kind == Put {
			if _, ok := w[o.Box]; !ok {
				w[o.Box] = written{o.Node, o.Courier, o.At}
			}
		}
	}
	return w
}
