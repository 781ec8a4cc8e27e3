// SPDX-License-Identifier: Apache-2.0

package leakage

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// Design is how a world that leaks on purpose carries messages.
type Design string

// The designs. All but the last two send nothing that is not needed.
const (
	// QueuePush: a queue for each contact and direction at the reader's store, which pushes (SimpleX's form).
	QueuePush Design = "queue push, no cover"
	// PondInbox: an inbox for each node; every node makes a transaction each 300 s or so, a fetch after each send.
	PondInbox Design = "Pond's inbox"
	// Unscheduled: boxes and a digest, behind a courier, but frames only when there is something to write or read.
	Unscheduled Design = "frames without schedule"
	// NoCover: frames on the schedule; idle halves do nothing that a store keeps or has.
	NoCover Design = "no cover"
	// UniformDecoys: frames, cover and decoys, but decoys are drawn from all the boxes of a day.
	UniformDecoys Design = "uniform decoys"
)

// What the simulated frames are made of: the balanced profile.
const (
	simFrame  = 10 * time.Second
	simMix    = 2 * time.Second
	simBucket = 10 * time.Second
	simTor    = 700 * time.Millisecond // one way
	simCover  = 0.3
	simAck    = 5 * time.Minute
	simPond   = 300 * time.Second
	simUp     = 10956
	simDown   = 8466
	simSmall  = 64 // an empty answer where sizes are not constant
)

// Simulate lets the people of c talk over a design that leaks, on as many stores and couriers as the world has.
func Simulate(d Design, c *Chat, stores, couriers int, seed uint64) *Log {
	s := &sim{design: d, chat: c, rng: rand.New(rand.NewPCG(seed, 0x51)), nodes: make([]simNode, c.Nodes)}
	s.log = &Log{Nodes: c.Nodes, Hours: c.Hours, Readers: map[uint64]int{}}
	for n := range c.Nodes {
		s.log.Stores = append(s.log.Stores, []int{n % stores})
		var cs []int
		if couriers > 0 && d != QueuePush && d != PondInbox {
			cs = []int{s.rng.IntN(couriers), s.rng.IntN(couriers)}
		}
		s.log.Couriers = append(s.log.Couriers, cs)
		s.nodes[n].acks = map[int]time.Duration{}
	}
	if d == QueuePush || d == PondInbox {
		s.log.Names = map[uint32]int{}
	}
	for i := range c.Conversations {
		v := &c.Conversations[i]
		s.at(v.Start, func() { s.turn(v, 0) })
	}
	if d != QueuePush && d != Unscheduled {
		for n := range c.Nodes {
			s.at(s.exp(simFrame), func() { s.tick(n) })
		}
	}
	end := time.Duration(c.Hours) * time.Hour
	for len(s.queue) > 0 && s.queue[0].at < end {
		e := heap.Pop(&s.queue).(simEvent)
		s.now = e.at
		e.do()
	}
	s.log.Sort()
	return s.log
}

type sim struct {
	design Design
	chat   *Chat
	rng    *rand.Rand
	log    *Log
	nodes  []simNode
	now    time.Duration
	order  int
	queue  simQueue
	boxes  []uint64 // at the stores, oldest first
}

type simNode struct {
	out   []simMessage
	todo  []simMessage          // boxes that the digest showed
	inbox []simMessage          // Pond
	fetch bool                  // Pond: the next transaction is a fetch
	acks  map[int]time.Duration // to whom, when: a write before that carries it
}

type simMessage struct {
	from, to int
	box      uint64
	read     func() // the chat goes on
}

type simEvent struct {
	at    time.Duration
	order int
	do    func()
}

type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].order < q[j].order
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

func (s *sim) at(t time.Duration, do func()) {
	s.order++
	heap.Push(&s.queue, simEvent{t, s.order, do})
}

func (s *sim) after(d time.Duration, do func()) { s.at(s.now+d, do) }

func (s *sim) exp(mean time.Duration) time.Duration {
	return time.Duration(s.rng.ExpFloat64() * float64(mean))
}

func (s *sim) packet(node int, up bool, size int) {
	s.log.Packets = append(s.log.Packets, Packet{s.now, node, up, size})
}

func (s *sim) op(node, courier, store int, k Kind, box uint64) {
	s.log.Ops = append(s.log.Ops, Op{s.now, node, courier, store, k, box})
	if k == Put {
		s.boxes = append(s.boxes, box)
		s.log.Disk = append(s.log.Disk, Listed{s.now.Truncate(simBucket), store, box})
	}
}

// turn lets the speaker of a turn send its messages; the last one's reader has the next turn.
func (s *sim) turn(v *Conversation, turn int) {
	if turn >= len(v.Turns) || v.Late(s.now) {
		return
	}
	t := v.Turns[turn]
	left := t.Messages
	at := time.Duration(0)
	for i := range t.Messages {
		if i > 0 {
			at += t.Pauses[i-1]
		}
		m := simMessage{from: v.Speaker(turn), to: v.Listener(turn), read: func() {
			if left--; left == 0 && turn+1 < len(v.Turns) {
				s.after(v.Turns[turn+1].Think, func() { s.turn(v, turn+1) })
			}
		}}
		s.after(at, func() { s.send(m) })
	}
}

func (s *sim) send(m simMessage) {
	store := s.log.Stores[m.to][0]
	switch s.design {
	case QueuePush:
		queue := uint32(m.from*s.chat.Nodes + m.to)
		s.log.Names[queue] = m.to
		m.box = uint64(queue)<<32 | uint64(len(s.boxes)&0xffffffff)
		s.log.Readers[m.box] = m.to
		s.packet(m.from, true, simUp)
		s.after(simTor, func() {
			s.op(m.from, -1, store, Put, m.box)
			s.after(simTor, func() {
				s.whenUp(m.to, func() {
					s.op(m.to, -1, store, Get, m.box)
					s.packet(m.to, false, simUp)
					m.read()
				})
			})
		})
	case Unscheduled:
		m.box = s.rng.Uint64()
		s.log.Readers[m.box] = m.to
		s.frame(m.from, store, -1)
		s.put(m, s.exp(simMix))
	default:
		s.nodes[m.from].out = append(s.nodes[m.from].out, m)
	}
}

// whenUp does something now, or when the node comes up.
func (s *sim) whenUp(node int, do func()) {
	if s.chat.Uptimes == nil || s.chat.Uptimes[node].Up(s.now) {
		do()
		return
	}
	for _, u := range s.chat.Uptimes[node] {
		if u.From > s.now {
			s.at(u.From, do)
			return
		}
	}
}

// frame is what network and courier see of one.
func (s *sim) frame(node, put, get int) int {
	courier := s.log.Couriers[node][s.rng.IntN(2)]
	s.packet(node, true, simUp)
	s.log.Frames = append(s.log.Frames, Frame{At: s.now + simTor, Node: node, Courier: courier, Put: put, Get: get})
	s.after(3*simMix+2*simTor, func() { s.packet(node, false, simDown) })
	return courier
}

// put lets a message's box reach the store; its reader hears of it with the bucket.
func (s *sim) put(m simMessage, mix time.Duration) {
	courier := s.log.Couriers[m.from][0]
	s.after(mix+2*simTor, func() {
		s.op(m.from, courier, s.log.Stores[m.to][0], Put, m.box)
		closed := s.now.Truncate(simBucket) + simBucket + 3*time.Second
		s.at(closed, func() {
			if s.design != Unscheduled {
				s.nodes[m.to].todo = append(s.nodes[m.to].todo, m)
				return
			}
			s.frame(m.to, -1, s.log.Stores[m.to][0])
			s.get(m, s.exp(simMix))
		})
	})
}

func (s *sim) get(m simMessage, mix time.Duration) {
	courier := s.log.Couriers[m.to][0]
	s.after(mix+2*simTor, func() {
		s.op(m.to, courier, s.log.Stores[m.to][0], Get, m.box)
		s.after(2*simMix, func() {
			if m.read == nil {
				return // an acknowledgement is not acknowledged
			}
			if n := &s.nodes[m.to]; n.acks[m.from] == 0 {
				n.acks[m.from] = s.now + s.exp(simAck)
			}
			m.read()
		})
	})
}

// tick is one slot of a node's schedule.
func (s *sim) tick(n int) {
	away := s.chat.Uptimes != nil && !s.chat.Uptimes[n].Up(s.now)
	if s.design == PondInbox {
		s.after(s.exp(simPond), func() { s.tick(n) })
		if !away {
			s.pond(n)
		}
		return
	}
	s.after(s.exp(simFrame), func() { s.tick(n) })
	if away {
		return
	}
	node := &s.nodes[n]
	own := s.log.Stores[n][0]
	courier := s.frame(n, own, own)
	cover := s.design == UniformDecoys && s.rng.Float64() < simCover
	putMix, getMix := s.exp(simMix), s.exp(simMix)
	ack := -1
	for to, due := range node.acks {
		if due <= s.now && (cover || s.design == NoCover) && (ack < 0 || to < ack) {
			ack = to
		}
	}
	switch {
	case len(node.out) > 0:
		m := node.out[0]
		node.out = node.out[1:]
		m.box = s.rng.Uint64()
		s.log.Readers[m.box] = m.to
		delete(node.acks, m.to)
		s.put(m, putMix)
	case ack >= 0:
		delete(node.acks, ack)
		s.put(simMessage{from: n, to: ack, box: s.rng.Uint64()}, putMix)
	case cover:
		box := s.rng.Uint64()
		s.after(putMix+2*simTor, func() { s.op(n, courier, own, Put, box) })
	default:
		s.after(putMix+2*simTor, func() { s.op(n, courier, own, Nothing, 0) })
	}
	if len(node.todo) > 0 {
		m := node.todo[0]
		node.todo = node.todo[1:]
		s.get(m, getMix)
		return
	}
	box := s.rng.Uint64()
	if s.design == UniformDecoys && len(s.boxes) > 0 {
		box = s.boxes[s.rng.IntN(len(s.boxes))]
	}
	s.after(getMix+2*simTor, func() { s.op(n, courier, own, Get, box) })
}

// pond is one of its transactions: the next message, unless the last one was a send; else a fetch.
func (s *sim) pond(n int) {
	node := &s.nodes[n]
	s.packet(n, true, simUp)
	s.after(2*simTor, func() { s.packet(n, false, simUp) })
	inbox := func(n int) uint32 { return uint32(n) + 1 }
	s.log.Names[inbox(n)] = n
	if len(node.out) > 0 && !node.fetch {
		m := node.out[0]
		node.out, node.fetch = node.out[1:], true
		m.box = uint64(inbox(m.to))<<32 | uint64(len(s.boxes)&0xffffffff)
		s.log.Readers[m.box] = m.to
		s.after(simTor, func() {
			s.op(n, -1, s.log.Stores[m.to][0], Put, m.box)
			s.nodes[m.to].inbox = append(s.nodes[m.to].inbox, m)
		})
		return
	}
	node.fetch = false
	s.after(simTor, func() {
		if len(node.inbox) == 0 {
			s.op(n, -1, s.log.Stores[n][0], Digest, uint64(inbox(n))<<32)
			return
		}
		m := node.inbox[0]
		node.inbox = node.inbox[1:]
		s.op(n, -1, s.log.Stores[n][0], Get, m.box)
		if m.read != nil {
			m.read()
		}
	})
}
