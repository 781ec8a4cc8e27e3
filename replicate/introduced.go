// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/store"
)

// Introducing, and being introduced: the other two parts of what introduce.go says.

// Bounds of both, of each contact.
const (
	maxPassed     = 32 // links that it has passed on in a day, to different contacts
	maxBrought    = 32 // links of others that are taken from it in a day
	maxFollowed   = 4  // of these, followed at a time: beyond, they wait in the inbox
	maxFollowedBy = 64 // followed at a time, whoever brought them
)

// errFollowing: as many introductions are under way as may be. It passes.
var errFollowing = errors.New("replicate: other introductions are under way")

// introducerRow is what a contact had of introductions on a day.
type introducerRow struct {
	day     uint64
	passed  []onionid.Name // to whom we passed on links of its
	brought uint64         // links of others that we took from it
}

func (i introducerRow) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.uvarint(i.day)
	w.uvarint(i.brought)
	w.uvarint(uint64(len(i.passed)))
	for _, n := range i.passed {
		w.str(string(n))
	}
	return w.b
}

func parseIntroducer(b []byte) (introducerRow, error) {
	r := reader{b: b}
	r.version()
	i := introducerRow{day: r.uvarint(), brought: r.uvarint()}
	n := r.uvarint()
	if n > maxPassed {
		r.bad = true
	}
	for ; n > 0 && !r.bad; n-- {
		i.passed = append(i.passed, r.name())
	}
	return i, r.end()
}

func introducerKey(name onionid.Name) []byte { return store.Key(tableIntroducer, string(name)) }

func (c *contact) loadIntroducer(r store.Reader) (err error) {
	c.intro, err = row(r, introducerKey(c.name), parseIntroducer)
	return err
}

// on is the row of today.
func (i introducerRow) on(now time.Time) introducerRow {
	if day := uint64(mailbox.Epoch(now)); i.day != day {
		return introducerRow{day: day}
	}
	i.passed = slices.Clone(i.passed)
	return i
}

// current tells whether a link can be followed, and not for longer than any that is made for an introduction.
func (l Link) current(now time.Time) bool {
	return now.Before(l.Expiry) && l.Expiry.Sub(now) <= DefaultLinkLife+time.Hour // clocks differ
}

// introducing reads a link between c and another server, and tells whether an introduction of the two is to be looked at: it is none of us, the
// link can be followed, and both meet in a room of ours.
func (e *Engine) introducing(c *contact, other onionid.Name, raw [bundle.LinkSize]byte, now time.Time) (link Link, ok bool, err error) {
	if link, err = parseLinkBytes(raw); err != nil {
		return Link{}, false, refuse(err)
	}
	if e.introductions == NoIntroductions || other == c.name || other == e.self.Name || !link.current(now) {
		return Link{}, false, nil
	}
	ok, err = e.rooms.Meet(false, c.name, other)
	return link, ok, err
}

// takeIntroduce is a contact's wish to be introduced to another contact of ours. It is granted in silence, and refused in silence. What is passed
// on is queued in the Update that forgets the wish: a crash before it finds the wish again, after it both are durable.
func (e *Engine) takeIntroduce(c *contact, data []byte) (effect, error) {
	i, err := bundle.ParseIntroduce(data)
	if err != nil {
		return effect{}, refuse(err)
	}
	now := time.Now()
	if _, ok, err := e.introducing(c, i.To, i.Link, now); !ok || err != nil {
		return effect{}, err
	}
	rec, err := bundle.Introduced{From: c.name, Link: i.Link}.Record()
	if err != nil {
		return effect{}, refuse(err)
	}
	var row introducerRow
	pass := false
	return effect{
		write: func(txn store.Txn) error {
			to := e.contacts[i.To]
			row = c.intro.on(now)
			pass = to != nil && !c.cut && !to.cut && now.Sub(to.lastHeard) <= introduceHeard && len(row.passed) < maxPassed && !slices.Contains(row.passed, i.To)
			if !pass {
				return nil
			}
			row.passed = append(row.passed, i.To)
			return errors.Join(txn.Set(introducerKey(c.name), row.marshal()),
				store.Enqueue(txn, string(i.To), store.ItemRecord, append([]byte{byte(rec.Type)}, rec.Data...)))
		},
		apply: func() {
			if pass {
				c.intro = row
			}
		},
	}, nil
}

// introducible tells whether an introduction may make this server a contact: it is none, or one that was introduced and has lost us perhaps;
// and no person forgot it or cut it off. The caller holds mu.
func (e *Engine) introducible(name onionid.Name) bool {
	c := e.contacts[name]
	return name != e.self.Name && !e.shunned[name] && (c == nil || c.introducer != "" && !c.cut)
}

// introducerOf is who is to stand as introducer of a contact that by introduced ("" for a person's link): whom a person made a contact stays that.
func (e *Engine) introducerOf(name, by onionid.Name) onionid.Name {
	if old := e.contacts[name]; old != nil && old.introducer == "" {
		return ""
	}
	return by
}

// takeIntroduced is a link that a contact passes on. To follow it is written in the Update that forgets the record; all else goes as with a link
// that a person gave us (accept.go), but that its payload must be of whom it is said to be.
func (e *Engine) takeIntroduced(c *contact, data []byte) (effect, error) {
	i, err := bundle.ParseIntroduced(data)
	if err != nil {
		return effect{}, refuse(err)
	}
	now := time.Now()
	link, ok, err := e.introducing(c, i.From, i.Link, now)
	if !ok || err != nil {
		return effect{}, err
	}
	wanted := e.introductions == AllIntroductions // whatever the room is
	if !wanted {
		if wanted, err = e.rooms.Meet(true, c.name, i.From); err != nil {
			return effect{}, err
		}
	}
	e.mu.Lock()
	follow, err := e.mayFollow(c, i.From, link, !wanted, now)
	e.mu.Unlock()
	if !follow || err != nil {
		return effect{}, err
	}
	var row introducerRow
	var a *accept
	return effect{
		write: func(txn store.Txn) error {
			a = nil
			if follow, err := e.mayFollow(c, i.From, link, !wanted, now); !follow || err != nil {
				return nil // another was faster
			}
			row = c.intro.on(now)
			row.brought++
			a = &accept{link: link, state: acceptSeeking, created: now, due: now, from: i.From, by: c.name}
			return errors.Join(txn.Set(introducerKey(c.name), row.marshal()), txn.Set(store.Key(tableAccept, link.Voucher[:]), a.marshal()))
		},
		apply: func() {
			if a != nil {
				c.intro = row
				e.accepts[link.Voucher] = a
				e.reroute()
			}
		},
	}, nil
}

// mayFollow tells whether an introduction is followed; thin: only for rooms that people read without. errFollowing: not now. The caller holds mu.
func (e *Engine) mayFollow(c *contact, from onionid.Name, link Link, thin bool, now time.Time) (bool, error) {
	old := e.contacts[from]
	switch {
	case !e.introducible(from), len(e.own) == 0, e.invites[link.Voucher] != nil, e.accepts[link.Voucher] != nil:
		return false, nil
	case old != nil && (old.voucher == link.Voucher || old.outlasts(link.Expiry, link.Voucher)):
		return false, nil
	case c.intro.on(now).brought >= maxBrought:
		return false, nil
	}
	open, his, known := 0, 0, old != nil
	for _, a := range e.accepts {
		if a.from == "" || !a.open() {
			continue
		}
		known = known || a.from == from
		open++
		if a.by == c.name {
			his++
		}
	}
	for _, in := range e.invites {
		known = known || in.peer == from && now.Before(in.expiry)
	}
	if !known && e.introduced(now) >= e.introductionsFor(thin) || len(e.accepts) >= 4*maxLinks {
		return false, nil
	}
	if open >= maxFollowedBy || his >= maxFollowed {
		return false, errFollowing
	}
	return true, nil
}

// dropVain ends what is followed in vain: what lies under a link is there soon, or somebody made the link up. The caller holds mu.
func (e *Engine) dropVain(now time.Time) {
	for _, a := range e.accepts {
		if a.from != "" && a.state == acceptSeeking && !a.busy && (now.Sub(a.created) > e.patience() || !now.Before(a.link.Expiry)) {
			e.failAccept(a, "")
		}
	}
}

// shun notes that a person does not want a server for a contact: it is not introduced again, and what is under way ends. end is for after the commit.
func (e *Engine) shun(txn store.Txn, name onionid.Name) (end func(), err error) {
	errs := []error{txn.Set(store.Key(tableShunned, string(name)), []byte{rowVersion}), txn.Delete(store.Key(tableStranger, string(name)))}
	var invites []*invite
	var accepts []*accept
	for v, in := range e.invites {
		if in.peer == name {
			invites = append(invites, in)
			errs = append(errs, txn.Delete(store.Key(tableInvite, v[:])))
		}
	}
	for v, a := range e.accepts {
		if a.from == name {
			accepts = append(accepts, a)
			errs = append(errs, txn.Delete(store.Key(tableAccept, v[:])))
		}
	}
	return func() {
		e.shunned[name] = true
		delete(e.strangers, name)
		for _, in := range invites {
			delete(e.expected, in.reply().id.Handle())
			delete(e.invites, in.voucher)
		}
		for _, a := range accepts {
			delete(e.accepts, a.link.Voucher)
		}
	}, errors.Join(errs...)
}

// shunNow is shun in an Update of its own.
func (e *Engine) shunNow(name onionid.Name) error {
	end := func() {}
	if err := e.kv.Update(func(txn store.Txn) (err error) {
		end, err = e.shun(txn, name)
		return err
	}); err != nil {
		return fmt.Errorf("forget a stranger: %w", err)
	}
	end()
	e.reroute()
	return nil
}

// beingIntroduced tells whether an introduction to a server is under way. The caller holds mu.
func (e *Engine) beingIntroduced(name onionid.Name) bool {
	for _, in := range e.invites {
		if in.peer == name {
			return true
		}
	}
	for _, a := range e.accepts {
		if a.from == name {
			return true
		}
	}
	return false
}
