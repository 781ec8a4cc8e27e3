// SPDX-License-Identifier: Apache-2.0

package leakage_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"tarn/internal/leakage"
	"tarn/replicate"
	"tarn/store"
)

// A contact who is curious writes to a node again and again, and looks how soon it is acknowledged, and when it hears of
// the node otherwise: does the node's user talk with somebody else?
const (
	probeEvery = 6 * time.Minute // on average
	lookEvery  = 10 * time.Second
)

// probed is what one prober knows of one node.
type probed struct {
	heard []time.Duration // boxes of the node that came
	acks  []ack
}

type ack struct{ at, took time.Duration }

// withProbers adds nodes that nobody talks with: each is a contact of some others.
func withProbers(c *leakage.Chat, probers int) {
	people := c.Nodes
	for i := range probers {
		p := people + i
		c.Contacts = append(c.Contacts, nil)
		for x := i; x < people; x += probers {
			c.Contacts[p], c.Contacts[x] = append(c.Contacts[p], x), append(c.Contacts[x], p)
		}
	}
	c.Nodes += probers
}

// probe lets the nodes from the people-th on watch their contacts, until the end.
func probe(w *world, people int, live *sync.WaitGroup) []probed {
	seen := make([]probed, people)
	end := time.Duration(w.plan.chat.Hours) * time.Hour
	for _, p := range w.players[people:] {
		var mu sync.Mutex
		sent := map[int][]time.Duration{}
		for _, x := range w.plan.chat.Contacts[p.n] {
			rng := rand.New(rand.NewPCG(w.plan.seed, uint64(x)))
			live.Go(func() {
				for {
					time.Sleep(time.Duration(rng.ExpFloat64() * float64(probeEvery)))
					if w.now() >= end {
						return
					}
					mu.Lock()
					sent[x] = append(sent[x], w.now())
					p.rooms.send(w.t, w.players[x].id.Name)
					mu.Unlock()
				}
			})
		}
		live.Go(func() {
			for at := time.Duration(0); at < end; at += lookEvery {
				w.until(at)
				cs, err := p.engine.Contacts()
				if err != nil {
					w.t.Error(err)
				}
				mu.Lock()
				for _, x := range w.plan.chat.Contacts[p.n] {
					name := w.players[x].id.Name
					s := &seen[x]
					for _, c := range cs {
						if heard := w.rec.since(c.LastHeard); c.Name == name && heard >= 0 && (len(s.heard) == 0 || s.heard[len(s.heard)-1] != heard) {
							s.heard = append(s.heard, heard)
						}
					}
					var left []store.Item
					if err := p.kv.View(func(r store.Reader) (err error) {
						left, err = store.Pending(r, string(name), 0, 1000)
						return err
					}); err != nil {
						w.t.Error(err)
					}
					for len(sent[x]) > len(left) {
						s.acks = append(s.acks, ack{at, at - sent[x][0]})
						sent[x] = sent[x][1:]
					}
				}
				mu.Unlock()
			}
		})
	}
	return seen
}

// features of one node's hour, as its prober sees it.
func (p *probed) features(hour int) []float64 {
	in := func(at time.Duration) bool { return int(at/time.Hour) == hour }
	var heard, acks []time.Duration
	var sum, most float64
	least := 3600.0
	for _, at := range p.heard {
		if in(at) {
			heard = append(heard, at)
		}
	}
	for _, a := range p.acks {
		if in(a.at) {
			acks = append(acks, a.at)
			sum, most, least = sum+a.took.Seconds(), max(most, a.took.Seconds()), min(least, a.took.Seconds())
		}
	}
	begin := time.Duration(hour) * time.Hour
	f := append(leakage.Series(heard, begin), leakage.Series(acks, begin)...)
	return append(f, sum/max(1, float64(len(acks))), most, least)
}

// contact is the curious contact's row. Its control is a node that shows its contacts when it was last active.
func (s size) contact(t *testing.T, r *leakage.Report) {
	people := max(12, s.nodes*2/5)
	hours := max(2, s.hours/2)
	c := leakage.NewChat(people, hours, false, 5)
	chatting := c.Chatting()
	withProbers(c, (people+5)/6)
	var seen []probed
	p := replicate.Balanced()
	live(t, "contact", plan{chat: c, profile: p, stores: worldStores, couriers: worldCouriers, seed: 5, warm: warmUp(p),
		watch: func(w *world, live *sync.WaitGroup) { seen = probe(w, people, live) }})
	var real, shown []leakage.Sample
	active := leakage.Simulate(leakage.Unscheduled, leakage.NewChat(people, hours, false, 5), worldStores, worldCouriers, 5)
	for n := range people {
		var lately []time.Duration
		for _, o := range active.Ops {
			if o.Kind == leakage.Put && o.Node == n {
				lately = append(lately, o.At)
			}
		}
		a := probed{heard: lately}
		for h := range hours {
			real = append(real, leakage.Sample{Node: n, Hour: h, Features: seen[n].features(h), True: chatting[n][h]})
			shown = append(shown, leakage.Sample{Node: n, Hour: h, Features: a.features(h), True: chatting[n][h]})
		}
	}
	acks := 0
	for _, x := range seen {
		acks += len(x.acks)
	}
	r.Add(leakage.Row{Observer: "a contact", Task: "idle or chatting with others, by the hour", Profile: p.Name, Seeds: 1, Control: "contacts see when one was last active",
		Note: fmt.Sprintf("it writes every %d min; %d acknowledgements", int(probeEvery.Minutes()), acks)},
		leakage.Bootstrap(leakage.Attack(real, 1), resamples, 1), leakage.AUC(leakage.Attack(shown, 1)))
}
