// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"tarn/bundle"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// Signs of life: who is there and who types. They are clocks of people, so no contact is told before the operator says so (SetSigns), of
// each alone. Then they ride in boxes that leave anyway, if there is room; and they take the place of cover, and of nothing else: in a slot that would have written a
// box of nobody. Such a box is written once and not acknowledged: nothing follows from it, and who is off gathers few of them. Nothing
// waits in the outbox: what is told is how it is when the box is made. So the boxes that a node writes are as many as without, and when a contact is told
// depends on the schedule. SPEC §8.15.

// Signs is what the engine needs of who knows about users (clientapi.API). Safe for concurrent use.
type Signs interface {
	// SignsTurn grows with every change of what Signs could say.
	SignsTurn() uint64
	// Signs is what server may know; Good is not set, and what was done last comes first.
	Signs(server matrix.ServerName) (room.Signs, error)
	// TakeSigns takes what server says. It need not be durable.
	TakeSigns(from matrix.ServerName, s room.Signs) error
}

const (
	signsGood   = 30 * time.Second // how long the word that somebody is there holds at least; it is renewed after half of that,
	signsFrames = 60               // or so many frames,
	signsMost   = 2 * time.Hour    // but no longer
	typingSoon  = 10 * time.Second // before the end of a typing that was told it is told again, if it goes on
	signsAhead  = 32               // boxes of signs alone above the first that the peer lacks
	signsSize   = 2 << 10          // bytes of a record: who did nothing for longest is left out
)

// signState is a contact's part of it. Guarded by the engine's mutex; in memory but for on.
type signState struct {
	on   bool
	now  room.Signs // what it is to be told
	told room.Signs // what it was told, until Good
	last uint64     // serial of that
	said uint64     // serial of what it said last
}

func (c *contact) loadSigns(r store.Reader) error {
	_, err := r.Get(store.Key(tableSigns, string(c.name)))
	if c.signs.on = err == nil; errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// SetSigns says whether a contact is told which users here are online and where they type; it is not, until then. The other node is not
// told, and what it says itself is taken either way. ErrNoContact.
func (e *Engine) SetSigns(name string, on bool) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.contacts[matrix.ServerName(name)]
	if c == nil {
		return ErrNoContact
	}
	key := store.Key(tableSigns, name)
	if err := e.kv.Update(func(txn store.Txn) error {
		if on {
			return txn.Set(key, []byte{rowVersion})
		}
		return txn.Delete(key)
	}); err != nil {
		return err
	}
	c.signs = signState{on: on, last: c.signs.last, said: c.signs.said}
	e.signing++
	return nil
}

// workSigns looks, while somebody is to be told, at what there is to tell, if that changed. It writes nothing.
func (e *Engine) workSigns(ctx context.Context) {
	if e.signs == nil {
		return
	}
	var turn, signing uint64
	for first := true; ; first = false {
		e.mu.Lock()
		var to []*contact
		for _, c := range e.contacts {
			if c.signs.on {
				to = append(to, c)
			}
		}
		setting := e.signing
		e.mu.Unlock()
		if now := e.signs.SignsTurn(); len(to) > 0 && (first || now != turn || setting != signing) { // read before what it counts
			turn, signing = now, setting
			for _, c := range to {
				s, err := e.signs.Signs(c.name)
				if err != nil {
					e.warn("looking who is here", err)
					turn-- // again
					break
				}
				e.mu.Lock()
				if c.signs.on {
					c.signs.now = s
				}
				e.mu.Unlock()
			}
		}
		timer := time.NewTimer(e.profile.Load().Frame / 2)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// due tells whether the contact is to be told something that it was not, or that does not hold much longer.
func (s *signState) due(now time.Time, good time.Duration) bool {
	if !s.on {
		return false
	}
	type word struct{ state, status string }
	present := func(s room.Signs) map[matrix.UserID]word {
		out := map[matrix.UserID]word{}
		for _, p := range s.Present {
			out[p.User] = word{p.State, p.Status}
		}
		return out
	}
	told := s.told
	if told.Good.Before(now) {
		told.Present = nil
	}
	if !maps.Equal(present(s.now), present(told)) || len(s.now.Present) > 0 && told.Good.Sub(now) < good/2 {
		return true
	}
	type place struct {
		room matrix.RoomID
		user matrix.UserID
	}
	typing := func(s room.Signs) map[place]time.Time {
		out := map[place]time.Time{}
		for _, t := range s.Typing {
			if t.Until.After(now) {
				out[place{t.Room, t.User}] = t.Until
			}
		}
		return out
	}
	is, was := typing(s.now), typing(told)
	for p, until := range is {
		if end, ok := was[p]; !ok || end.Sub(now) < typingSoon && until.After(end) {
			return true
		}
	}
	return len(is) != len(was)
}

// goodFor is how long what is told of who is there holds.
func (p *Profile) goodFor() time.Duration {
	return min(max(signsGood, signsFrames*p.Frame), signsMost)
}

// addSigns puts what c is to be told into a box that is made, if it fits.
func (e *Engine) addSigns(c *contact, f *filling, now time.Time) bool {
	good := e.profile.Load().goodFor()
	if f.packer == nil || !c.signs.due(now, good) {
		return false
	}
	s := c.signs.now
	s.Good = now.Add(good)
	serial := max(uint64(now.UnixMilli()), c.signs.last+1)
	rec, ok := encodeSigns(serial, s, now)
	if !ok || !f.packer.Add(rec) {
		return false
	}
	c.signs.last = serial
	f.signs = &s
	return true
}

// putSigns seals a box of signs alone, where a box of nobody would be written. One that carries a step to another epoch, or an acknowledgement that is due, is like
// others.
func (e *Engine) putSigns(to []*contact, w *where, now time.Time) (job, bool) {
	if !w.cover || e.owed > 0 {
		return job{}, false
	}
	for _, c := range to {
		if c.lost() || c.recovery != nil || !c.roomForBox(signsAhead) || c.waits() >= maxSummaries || !c.signs.due(now, e.profile.Load().goodFor()) || w.aimNext(c) == nil {
			continue
		}
		f := e.blank(c, now).begin()
		if !e.addSigns(c, f, now) {
			continue
		}
		f.once = !f.eliciting && c.ackDue.IsZero()
		return e.seal(c, f, w, now)
	}
	return job{}, false
}

// signsAlone tells whether a box has nothing but signs of life: it is not acknowledged by itself.
func signsAlone(fs []bundle.Fragment) bool {
	return !slices.ContainsFunc(fs, func(f bundle.Fragment) bool { return f.Type != bundle.TypeSigns })
}

// takeSigns is a contact's word about its users, if it is the newest.
func (e *Engine) takeSigns(c *contact, data []byte) error {
	b, err := bundle.ParseSigns(data)
	if err != nil {
		return refuse(err)
	}
	e.mu.Lock()
	old := b.Serial <= c.signs.said
	c.signs.said = max(c.signs.said, b.Serial)
	e.mu.Unlock()
	if old || e.signs == nil {
		return nil
	}
	s := room.Signs{Good: b.Good}
	for _, p := range b.Present {
		q := room.Present{User: p.User, State: stateNames[p.State], Status: p.Status}
		if p.Active.UnixMilli() > 0 {
			q.Active = p.Active
		}
		s.Present = append(s.Present, q)
	}
	for _, t := range b.Typing {
		s.Typing = append(s.Typing, room.Typist{Room: t.Room, User: t.User, Until: t.Until})
	}
	return permanent(e.signs.TakeSigns(c.name, s))
}

// stateNames are Matrix's names of states.
var stateNames = map[bundle.State]string{bundle.Online: "online", bundle.Unavailable: "unavailable", bundle.Offline: "offline"}

// encodeSigns makes the record: of what is too much, those who did something last.
func encodeSigns(serial uint64, s room.Signs, now time.Time) (bundle.Record, bool) {
	b := bundle.Signs{Serial: serial, Good: s.Good}
	size := 0
	fits := func(n int) bool { size += n; return size <= signsSize }
	for _, t := range s.Typing {
		one := bundle.Typist{Room: t.Room, User: t.User, Until: t.Until}
		if t.Until.After(now) && len(b.Typing) < bundle.MaxTypists && fits(len(t.Room)+len(t.User)+16) {
			b.Typing = append(b.Typing, one)
		}
	}
	for _, p := range s.Present {
		q := bundle.Present{User: p.User, Active: time.UnixMilli(0), Status: p.Status}
		for state, name := range stateNames {
			if name == p.State {
				q.State = state
			}
		}
		if !p.Active.IsZero() {
			q.Active = p.Active
		}
		if _, err := (bundle.Signs{Serial: 1, Good: s.Good, Present: []bundle.Present{q}}).Record(); err != nil {
			q.Status = "" // it has no form for others
		}
		if len(b.Present) < bundle.MaxPresent && fits(len(q.User)+len(q.Status)+16) {
			b.Present = append(b.Present, q)
		}
	}
	rec, err := b.Record()
	return rec, err == nil
}
