// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/crypto/sealed"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// Introductions. Two nodes in one room that are no contacts hear each other's events by way of others, and nothing else of each other: no keys of
// devices, no to-device messages, no receipts, no files. In an encrypted room their people do not read each other. So such nodes
// become contacts by themselves: one makes a link as a person would, asks a contact of both that is in the room to pass it on, and the other follows it.
// And so do nodes in any room, as far as one of them has but one contact there, by whom alone it hears of the room: when that one leaves it would hear nothing more.
// SPEC §7.11.
//
// The introducer sees the link, and has no part in what it makes: the payload is signed by who made it, the reply by who follows it, and each
// of the two takes the one whom it was told of, and nobody else. So a bad introducer can keep two nodes apart, as one that does nothing can; then another
// contact is asked. What is said here rides in streams that are there anyway, at the schedule's times.
//
// This file is the one that asks; introduced.go has the other two, and unneeded.go how it ends.

// Introductions says for what a node takes part in introductions, as any of the three.
type Introductions byte

// The kinds of it.
const (
	NoIntroductions     Introductions = iota // for nothing
	NeededIntroductions                      // to all in encrypted rooms, where people do not read each other without; in others to so many that it does not hang on one contact
	AllIntroductions                         // to all in all rooms
)

// ParseIntroductions reads the configuration's word: "off", "needed" or "rooms". ErrConfig.
func ParseIntroductions(word string) (Introductions, error) {
	switch word {
	case "off":
		return NoIntroductions, nil
	case "needed":
		return NeededIntroductions, nil
	case "rooms":
		return AllIntroductions, nil
	}
	return 0, fmt.Errorf(`%w: introductions can be "needed", "rooms" or "off", not %q`, ErrConfig, word)
}

// DefaultIntroduced is how many contacts a node has at most that were introduced, not made by a person.
const DefaultIntroduced = 32

// Bounds of asking.
const (
	patienceFrames  = 2000           // frames that one introducer has before another is asked, at most a day
	maxPatience     = 24 * time.Hour // of one; and how long one is not asked again for the same server
	maxPause        = 2 * maxPatience
	introducedLife  = 24 * time.Hour // of a link, or
	introduceFrames = 150            // so many frames, if that is more, and not more than a person's link
	maxFresh        = 8              // links that an introducer was asked to pass on and had less than its patience for
	maxIntroLinks   = 24             // all that are open
	maxLinksOf      = 2              // of these, for one server
	maxStrangers    = 1000           // rows
	keepStranger    = 14 * 24 * time.Hour
	introduceHeard  = 48 * time.Hour // a contact that was not heard for so long is asked for nothing, and given nothing
)

// errNotIntroduced: a link was made, or answered, by another node than the introducer said.
var errNotIntroduced = errors.New("replicate: an introduction's link is another node's")

// patience is how long one introducer has.
func (e *Engine) patience() time.Duration {
	return min(time.Duration(e.patienceFrames)*e.profile.Load().Frame, maxPatience)
}

func (p *Profile) introductionLife() time.Duration {
	return min(max(introducedLife, introduceFrames*p.Frame), DefaultLinkLife)
}

// stranger is a server in a room with us that is no contact. Guarded by the engine's mutex; a row on disk.
type stranger struct {
	since time.Time
	tries int
	next  time.Time                  // not before
	asked map[onionid.Name]time.Time // contacts that were asked in the last day
}

func (s *stranger) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.time(s.since)
	w.uvarint(uint64(s.tries))
	w.time(s.next)
	w.uvarint(uint64(len(s.asked)))
	for _, n := range slices.Sorted(maps.Keys(s.asked)) {
		w.str(string(n))
		w.time(s.asked[n])
	}
	return w.b
}

func parseStranger(b []byte) (*stranger, error) {
	r := reader{b: b}
	r.version()
	s := &stranger{since: r.time(), asked: map[onionid.Name]time.Time{}}
	tries := r.uvarint()
	s.next = r.time()
	if tries > 1<<30 {
		r.bad = true
	}
	s.tries = int(tries)
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		name := r.name()
		s.asked[name] = r.time()
	}
	return s, r.end()
}

// loadStrangers reads the rows of strangers, and of those that a person forgot.
func (e *Engine) loadStrangers(r store.Reader) error {
	if err := scan(r, tableShunned, func(k *store.KeyReader, _ []byte) error {
		e.shunned[onionid.Name(k.String())] = true
		return k.Err()
	}); err != nil {
		return err
	}
	return scan(r, tableStranger, func(k *store.KeyReader, v []byte) error {
		name := onionid.Name(k.String())
		s, err := parseStranger(v)
		if err == nil {
			e.strangers[name] = s
		}
		return errors.Join(err, k.Err())
	})
}

// workIntroductions asks for introductions until ctx ends.
func (e *Engine) workIntroductions(ctx context.Context) {
	if e.introductions == NoIntroductions {
		return
	}
	for {
		timer := time.NewTimer(e.profile.Load().Want)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := e.seekIntroductions(ctx, time.Now()); err != nil && ctx.Err() == nil {
			e.warn("asking for introductions", err)
		}
	}
}

// introductionWanted is one that is to be asked for.
type introductionWanted struct{ peer, by onionid.Name }

func (e *Engine) seekIntroductions(ctx context.Context, now time.Time) error {
	if err := e.endUnneeded(now); err != nil {
		return err
	}
	known, lack, err := e.rooms.Strangers(e.introductions == AllIntroductions)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.dropVain(now)
	var wanted []introductionWanted
	if err = e.noteStrangers(known, now); err == nil && len(e.own) > 0 {
		wanted = e.chooseIntroductions(known, lack, now)
	}
	e.mu.Unlock()
	for _, w := range wanted {
		if err = ctx.Err(); err != nil {
			return err
		}
		if err = e.askIntroduction(w, now); err != nil {
			return err
		}
	}
	return err
}

// noteStrangers keeps since when there are which strangers: a restart does not begin the waiting anew. The caller holds mu.
func (e *Engine) noteStrangers(known map[matrix.ServerName]*room.Stranger, now time.Time) error {
	fresh, gone := map[onionid.Name]*stranger{}, []onionid.Name(nil)
	for name, s := range e.strangers {
		if _, there := known[name]; !there && now.Sub(s.since) > keepStranger && now.Sub(s.next) > keepStranger {
			gone = append(gone, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if _, err := onionid.Parse(string(name)); err != nil || e.strangers[name] != nil || e.contacts[name] != nil || e.shunned[name] {
			continue
		}
		if len(e.strangers)-len(gone)+len(fresh) < maxStrangers {
			fresh[name] = &stranger{since: now, asked: map[onionid.Name]time.Time{}}
		}
	}
	if len(fresh)+len(gone) == 0 {
		return nil
	}
	if err := e.kv.Update(func(txn store.Txn) error {
		for _, name := range gone {
			if err := txn.Delete(store.Key(tableStranger, string(name))); err != nil {
				return err
			}
		}
		for name, s := range fresh {
			if err := txn.Set(store.Key(tableStranger, string(name)), s.marshal()); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("keep who is a stranger: %w", err)
	}
	for _, name := range gone {
		delete(e.strangers, name)
	}
	maps.Copy(e.strangers, fresh)
	return nil
}

// introduced counts the contacts that were introduced, and those that may become some by what is under way. The caller holds mu.
func (e *Engine) introduced(now time.Time) int {
	names := map[onionid.Name]bool{}
	for _, c := range e.contacts {
		if c.introducer != "" {
			names[c.name] = true
		}
	}
	for _, in := range e.invites {
		if in.peer != "" && now.Before(in.expiry) {
			names[in.peer] = true
		}
	}
	for _, a := range e.accepts {
		if a.from != "" && a.open() && now.Before(a.link.Expiry) {
			names[a.from] = true
		}
	}
	return len(names)
}

// chooseIntroductions are those to ask for now. Of two servers the one with the smaller name asks, so that links seldom cross; the other one after
// a while, for the first may have lost what it knew, or have no room for more. lack are the rooms that want some of their strangers, and how many. The caller holds mu.
func (e *Engine) chooseIntroductions(known map[matrix.ServerName]*room.Stranger, lack map[matrix.RoomID]int, now time.Time) (out []introductionWanted) {
	patience := e.patience()
	asked, open, of := 0, 0, map[onionid.Name]int{}
	for _, in := range e.invites {
		if in.peer == "" || !now.Before(in.expiry) {
			continue
		}
		open++
		of[in.peer]++
		if now.Sub(in.created) < patience {
			asked++
			if x := known[in.peer]; x != nil && len(x.Thin) > 0 {
				supply(lack, x.Thin)
			}
		}
	}
	names := slices.Sorted(maps.Keys(known))
	e.rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	names = slices.DeleteFunc(names, func(n onionid.Name) bool { return e.strangers[n] == nil || !e.introducible(n) || e.contacts[n] != nil })
	slices.SortStableFunc(names, func(a, b onionid.Name) int { return cmp.Compare(e.strangers[a].tries, e.strangers[b].tries) })
	introduced := e.introduced(now)
	for _, name := range names {
		s := e.strangers[name]
		if asked >= maxFresh || open >= maxIntroLinks {
			break
		}
		thin := known[name].Thin
		if now.Before(s.next) || of[name] >= maxLinksOf || of[name] == 0 && introduced >= e.introductionsFor(len(thin) > 0) || name < e.self.Name && now.Before(s.since.Add(2*patience)) {
			continue
		}
		if len(thin) > 0 && !slices.ContainsFunc(thin, func(id matrix.RoomID) bool { return lack[id] > 0 }) {
			continue
		}
		by := e.chooseIntroducer(s, known[name].By, now)
		if by == "" {
			continue
		}
		if of[name] == 0 {
			introduced++
		}
		supply(lack, thin)
		asked, open = asked+1, open+1
		out = append(out, introductionWanted{name, by})
	}
	return out
}

// supply notes that these rooms will have a contact more.
func supply(lack map[matrix.RoomID]int, rooms []matrix.RoomID) {
	for _, id := range rooms {
		lack[id]--
	}
}

// introductionsFor is how many contacts may have been introduced before one more is: for rooms that people read without it half of the places.
func (e *Engine) introductionsFor(thin bool) int {
	if thin {
		return (e.maxIntroduced + 1) / 2
	}
	return e.maxIntroduced
}

// chooseIntroducer is, of some contacts, the one that was asked the longest ago; "" if none may be asked now.
func (e *Engine) chooseIntroducer(s *stranger, of []matrix.ServerName, now time.Time) (by onionid.Name) {
	of = slices.Clone(of)
	e.rng.Shuffle(len(of), func(i, j int) { of[i], of[j] = of[j], of[i] })
	for _, name := range of {
		c, at := e.contacts[name], s.asked[name]
		if c == nil || c.cut || now.Sub(c.lastHeard) > introduceHeard || now.Sub(at) < maxPatience {
			continue
		}
		if by == "" || at.Before(s.asked[by]) {
			by = name
		}
	}
	return by
}

// askIntroduction makes a link for a stranger, and asks a contact to pass it on. ONE Update: the link, the note of whom we asked, and what it is asked. A
// crash before it asks later; after it everything goes on from the disk, and nobody is asked twice.
func (e *Engine) askIntroduction(w introductionWanted, now time.Time) error {
	var key, recovery *sealed.PrivateKey
	key, recovery, err := inviteKeys()
	if err != nil {
		return fmt.Errorf("make a link: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.strangers[w.peer]
	if s == nil || e.contacts[w.peer] != nil || !e.introducible(w.peer) || e.contacts[w.by] == nil || len(e.own) == 0 {
		return nil // it changed meanwhile
	}
	in := e.newInvite(key, recovery, e.profile.Load().introductionLife(), now)
	in.peer, in.by = w.peer, w.by
	next := &stranger{since: s.since, tries: s.tries + 1, next: now.Add(e.jitter(min(e.patience()<<min(s.tries, 8), maxPause))), asked: map[onionid.Name]time.Time{w.by: now}}
	for name, at := range s.asked {
		if name != w.by && now.Sub(at) < maxPatience {
			next.asked[name] = at
		}
	}
	link, err := in.link().bytes()
	if err != nil {
		return err
	}
	rec, err := bundle.Introduce{To: w.peer, Link: link}.Record()
	if err != nil {
		return err
	}
	if err := e.kv.Update(func(txn store.Txn) error {
		return errors.Join(
			txn.Set(store.Key(tableInvite, in.voucher[:]), in.marshal()),
			txn.Set(store.Key(tableStranger, string(w.peer)), next.marshal()),
			store.Enqueue(txn, string(w.by), store.ItemRecord, append([]byte{byte(rec.Type)}, rec.Data...)))
	}); err != nil {
		return fmt.Errorf("ask for an introduction: %w", err)
	}
	e.strangers[w.peer] = next
	e.addInvite(in)
	return nil
}

var _ [bundle.LinkSize]byte = [linkSize]byte{}
