// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// Asking for events.
const (
	maxAsked    = 100 // events that one want record may ask for
	answerAhead = 32  // ancestors given along, for the peer would ask for those next
	maxAnswers  = 512 // items that wait for a peer: beyond, its wants are not answered (it asks again)
	askTries    = 12  // then the next heads summary must bring it up again
	doneWithout = 8   // times asked in vain of all that might have it: then what waits for it goes on without
	maxHeadIDs  = 50  // of one room in a summary
)

// wantKey names an event.
type wantKey struct {
	room  matrix.RoomID
	event matrix.EventID
}

// want is an event to ask a contact for.
type want struct {
	wantKey
	tries int
	due   time.Time

	without int // tries when rooms went on without it
}

func (w *want) marshal() []byte {
	o := writer{}
	o.u8(rowVersion)
	o.str(string(w.room))
	o.str(string(w.event))
	return o.b
}

func parseWant(b []byte) (*want, error) {
	r := reader{b: b}
	r.version()
	w := &want{wantKey: wantKey{matrix.RoomID(r.str(255)), matrix.EventID(r.str(255))}}
	return w, r.end()
}

func wantRow(c *contact, k wantKey) []byte {
	return store.Key(tableWant, string(c.name), string(k.room), string(k.event))
}

// noteIngested is what the fate of some events does to the list of those to ask for: what came goes, what they lack comes.
func (e *Engine) noteIngested(c *contact, id matrix.RoomID, got room.Ingested) effect {
	torn := map[matrix.EventID]bool{}
	var missing []wanting
	for _, t := range got.Torn {
		torn[t.Event] = true
		for _, s := range t.Ask {
			missing = append(missing, wanting{s, wantKey{id, t.Event}})
		}
	}
	for r, ids := range got.Missing {
		for _, ev := range ids {
			missing = append(missing, wanting{c.name, wantKey{r, ev}})
		}
	}
	var came []wantKey
	for _, ev := range got.Stored {
		if !torn[ev] {
			came = append(came, wantKey{id, ev})
		}
	}
	eff := e.wanted(came, missing)
	apply := eff.apply
	eff.apply = func() {
		apply()
		for _, ev := range got.Shown {
			c.relay.shown.add(ev)
		}
	}
	return eff
}

// wanting is whom to ask for what.
type wanting struct {
	who onionid.Name
	wantKey
}

// wanted adds and removes wants. An event that is wanted already is asked for at its own pace.
func (e *Engine) wanted(came []wantKey, missing []wanting) effect {
	type row struct {
		c *contact
		w *want
	}
	var fresh []row
	return effect{
		write: func(txn store.Txn) error {
			fresh = nil
			for _, k := range came {
				for _, o := range e.contacts {
					if o.wants[k] != nil {
						if err := txn.Delete(wantRow(o, k)); err != nil {
							return err
						}
					}
				}
			}
			seen, more := map[wanting]bool{}, map[*contact]int{}
			for _, m := range missing {
				c := e.contacts[m.who]
				if c == nil || c.wants[m.wantKey] != nil || seen[m] || len(c.wants)+more[c] >= maxWants || len(m.room) > 255 || len(m.event) > 255 {
					continue
				}
				more[c]++
				w := &want{wantKey: m.wantKey}
				seen[m], fresh = true, append(fresh, row{c, w})
				if err := txn.Set(wantRow(c, m.wantKey), w.marshal()); err != nil {
					return err
				}
			}
			return nil
		},
		apply: func() {
			for _, k := range came {
				for _, o := range e.contacts {
					delete(o.wants, k)
				}
			}
			for _, r := range fresh {
				// It may be in a box that is being fetched: wait a little; longer if others are asked already.
				r.w.due = time.Now().Add(time.Duration(1+othersFactor*e.askedOf(r.w.wantKey)) * e.jitter(e.profile.Load().Want))
				r.c.wants[r.w.wantKey] = r.w
			}
		},
	}
}

// othersFactor is how many times Want longer it takes, for each contact that is asked for an event, until another one is.
const othersFactor = 4

// askedOf counts the contacts that are asked for an event. The caller holds mu.
func (e *Engine) askedOf(k wantKey) (n int) {
	for _, c := range e.contacts {
		if c.wants[k] != nil {
			n++
		}
	}
	return n
}

// wantDue tells whether something is to be asked for.
func (c *contact) wantDue(now time.Time) bool {
	for _, w := range c.wants {
		if !w.due.After(now) {
			return true
		}
	}
	return false
}

// wantRecords are the requests that are due, for a box. What came another way meanwhile is dropped.
func (e *Engine) wantRecords(c *contact, f *filling, now time.Time) (out []bundle.Record) {
	ids := map[matrix.RoomID][]matrix.EventID{}
	n := 0
	var over []wantKey
	for k, w := range c.wants {
		if w.due.After(now) {
			continue
		}
		if lacks, err := e.rooms.Lacks(k.room, k.event); err == nil && !lacks || w.tries >= askTries {
			over = append(over, k)
			continue
		}
		if n++; n > packWants {
			break
		}
		ids[k.room] = append(ids[k.room], k.event)
		f.asked = append(f.asked, w)
	}
	if len(over) > 0 {
		eff := e.wanted(over, nil)
		if err := e.kv.Update(eff.write); err == nil {
			eff.apply()
		}
	}
	for r, evs := range ids {
		if rec, err := (bundle.Want{Room: r, Events: evs}).Record(); err == nil {
			out = append(out, rec)
		}
	}
	return out
}

// asked notes that a want left in a box.
func (e *Engine) asked(w *want, now time.Time) {
	p := e.profile.Load()
	w.due = now.Add(e.jitter(backoff(p.Want+p.AckDelay, w.tries, p.RetransmitMax)))
	w.tries++
}

// goOnWithout lets rooms go on without what was asked for in vain (room.Without). It is asked for further.
func (e *Engine) goOnWithout(ctx context.Context) error {
	e.mu.Lock()
	asked := map[wantKey]*contact{}
	for _, c := range e.contacts {
		for k, w := range c.wants {
			if w.tries >= doneWithout && w.tries != w.without {
				asked[k] = c
			}
		}
	}
	for k := range asked {
		for _, c := range e.contacts {
			if w := c.wants[k]; w != nil && w.tries < doneWithout {
				delete(asked, k) // this one may still give it
			}
		}
	}
	for k := range asked {
		for _, c := range e.contacts {
			if w := c.wants[k]; w != nil {
				w.without = w.tries
			}
		}
	}
	e.mu.Unlock()
	byRoom := map[matrix.RoomID][]matrix.EventID{}
	for k := range asked {
		byRoom[k.room] = append(byRoom[k.room], k.event)
	}
	for id, ids := range byRoom {
		got, err := e.rooms.Without(ctx, id, ids)
		if err != nil {
			return err
		}
		if err := e.settleIngested(asked[wantKey{id, ids[0]}], id, got); err != nil {
			return err
		}
	}
	return nil
}

// answerWant queues the events that a peer asks for and may have, with some of their ancestors.
func (e *Engine) answerWant(c *contact, data []byte) (effect, error) {
	want, err := bundle.ParseWant(data)
	if err != nil {
		return effect{}, refuse(err)
	}
	id, asked := want.Room, want.Events
	if len(asked) > maxAsked {
		asked = asked[:maxAsked]
	}
	e.mu.Lock()
	waiting := map[string]bool{}
	err = e.kv.View(func(r store.Reader) error {
		items, err := store.Pending(r, string(c.name), 0, maxAnswers+1)
		for _, it := range items {
			waiting[string(it.Data)] = true
		}
		return err
	})
	e.mu.Unlock()
	if err != nil {
		return effect{}, err
	}
	if len(waiting) > maxAnswers {
		return effect{}, nil
	}
	var give [][]byte
	var lacked []matrix.EventID
	seen := map[matrix.EventID]bool{}
	ahead := answerAhead
	for wave := asked; len(wave) > 0; {
		var next []matrix.EventID
		for _, ev := range wave {
			if seen[ev] {
				continue
			}
			seen[ev] = true
			raw, err := e.rooms.RawFor(c.name, id, ev)
			if err != nil {
				if !gone(err) {
					return effect{}, err
				}
				continue
			}
			item := []byte(string(id) + "\x00" + string(ev))
			if !waiting[string(item)] {
				give = append(give, item)
			}
			lacked = append(lacked, ev)
			next = append(next, parents(raw)...)
		}
		// Not those that it has, or is sent anyway: what one event costs that was late would cost many more, which would be late too.
		e.mu.Lock()
		next = slices.DeleteFunc(next, func(ev matrix.EventID) bool { return seen[ev] || c.relay.shown.has(ev) || c.relay.sent.has(ev) })
		e.mu.Unlock()
		if len(next) > ahead {
			next = next[:ahead]
		}
		ahead -= len(next)
		wave = next
	}
	slices.Reverse(give) // ancestors first
	return effect{write: func(txn store.Txn) error {
		for _, item := range give {
			if err := store.Enqueue(txn, string(c.name), store.ItemHistory, item); err != nil {
				return err
			}
		}
		return nil
	}, apply: func() {
		for _, ev := range lacked {
			c.relay.shown.drop(ev) // whatever we believed
			c.relay.sent.add(ev)
		}
	}}, nil
}

// parents are the prev_events of a raw event.
func parents(raw []byte) []matrix.EventID {
	var ev struct {
		Prev []matrix.EventID `json:"prev_events"`
	}
	if json.Unmarshal(raw, &ev) != nil {
		return nil
	}
	return ev.Prev
}

// putHeads seals a summary of the rooms that the contact shares with us, in a slot that would carry cover. It is how
// a loss that nothing else noticed heals, and how a mailbox that lies is found.
func (e *Engine) putHeads(c *contact, w *where, now time.Time) (job, bool) {
	c.headsDue = now.Add(e.exp(e.profile.Load().Heads))
	shared, err := e.rooms.Shared(c.name)
	if err != nil {
		return job{}, false
	}
	f := e.blank(c, now).begin()
	for range shared {
		r := shared[c.headsAt%len(shared)]
		heads, err := e.rooms.Heads(r)
		if err == nil && len(heads) > 0 {
			if len(heads) > maxHeadIDs {
				heads = heads[:maxHeadIDs]
			}
			rec, err := bundle.Heads{Room: r, Heads: heads}.Record()
			if err == nil && !f.packer.Add(rec) {
				break // the next summary goes on from here
			}
			f.eliciting = err == nil
		}
		c.headsAt = (c.headsAt + 1) % len(shared)
	}
	f.eliciting = e.addSources(c, f, f.packer.Add, now) || f.eliciting
	// What mailboxes told us rides along, in the room that is left.
	f.eliciting = e.addWitness(c, f.packer) || f.eliciting
	if !f.eliciting {
		return job{}, false
	}
	e.addSigns(c, f, now)
	return e.seal(c, f, w, now)
}

// compareHeads wants the heads of a peer's summary that are not held here.
func (e *Engine) compareHeads(c *contact, data []byte) (effect, error) {
	sum, err := bundle.ParseHeads(data)
	if err != nil {
		return effect{}, refuse(err)
	}
	id, heads := sum.Room, sum.Heads
	shared, err := e.rooms.Shared(c.name)
	if err != nil {
		return effect{}, err
	}
	if !slices.Contains(shared, id) {
		return effect{}, nil
	}
	got := room.Ingested{Missing: map[matrix.RoomID][]matrix.EventID{}, Shown: heads}
	for _, ev := range heads {
		if lacks, err := e.rooms.Lacks(id, ev); err == nil && lacks {
			got.Missing[id] = append(got.Missing[id], ev)
		}
	}
	return e.noteIngested(c, id, got), nil
}
