// SPDX-License-Identifier: Apache-2.0

package room

import (
	"errors"
	"slices"

	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// Somebody invites, and is removed at the same time by a server that does not know of the invite. There the invite, the join that leans on it
// and all that the new member says are soft-failed, for who invites is not in the room. And as nobody there sees the new member's server in the
// room, nobody sends it the removal. Left alone it would go on in a room of its own, with those that it let in.
//
// But who invited learns of the removal, and is a contact of the one that he let in. He passes it on, and gives, redacted, what it
// stands on (for him too the new member may be none any more, where the two come together: farewells). Who comes to know so that the join is refused
// where the removal came from lets his users leave (standDown); and has passed it on to those whom they let in. So all come to the same end, as if each
// had been told. Nothing is lost that the others would see: they take no word of who is refused. It takes a new invite.

// farewells are the deliveries of an event to contacts that are not in the room any more because of it, but for those that get it anyway.
func (p *plan) farewells(ev *matrix.Event, from matrix.ServerName, to []delivery) (out []delivery, err error) {
	h := mustHash(ev.ID())
	var gone []matrix.ServerName
	for s, by := range p.parted {
		if by == h && s != from && p.census.servers[s] == 0 && !slices.ContainsFunc(to, func(d delivery) bool { return d.to == s }) {
			gone = append(gone, s)
		}
	}
	if gone, err = p.admitted(p.current, p.r.contacts(gone)); err != nil {
		return nil, err
	}
	slices.Sort(gone)
	for _, s := range gone {
		out = append(out, delivery{s, store.ItemEvent, itemData(p.row.id, ev.ID())})
	}
	return out, nil
}

// partedAt tells whether a server was in the room until an event that decided otherwise, and whether e is that event or stands before it.
func (q *reading) partedAt(server matrix.ServerName, e *held) (bool, error) {
	v, err := q.rd.Get(partedKey(q.n, server))
	if isNotFound(err) {
		return false, nil
	}
	d := decoder{b: v}
	at := seq(d.uvarint())
	return e.outlier || e.place <= at, errors.Join(err, d.err("parted"))
}

// latecomers looks at events of a room that the node takes no part in: whoever joins as a user here had invited him that has been removed meanwhile can not know.
// His server is told of the removal, as if it had been in the room before.
func (in *ingest) latecomers(p *plan) error {
	for _, c := range in.todo {
		ev := c.ev
		if ev.Type() != matrix.TypeMember || ev.Membership() != matrix.MemberJoin || ev.Server() != in.from {
			continue
		}
		for _, id := range ev.AuthEvents() {
			invite, err := p.byID(id)
			if err != nil {
				return err
			}
			if invite == nil || invite.ev.Membership() != matrix.MemberInvite || !p.r.local(invite.ev.Sender()) {
				continue
			}
			by, err := p.removedAfter(invite.ev.Sender(), invite.place)
			if err != nil {
				return err
			}
			if by == nil {
				continue
			}
			return p.tellWhy(in.from, by)
		}
	}
	return nil
}

// tellWhy gives a contact the event by which its users are not in the room, once, as if they had been in it before.
func (p *plan) tellWhy(to matrix.ServerName, by *held) error {
	if told, err := p.partedAt(to, by); told || err != nil {
		return err
	}
	h := mustHash(by.ev.ID())
	p.change(h, by)
	p.parted[to], p.servers[to] = h, true
	p.outbox = append(p.outbox, delivery{to, store.ItemEvent, itemData(p.row.id, by.ev.ID())})
	return nil
}

// turnAway tells a contact that the join of a user of its, which it gave, is not let in here, for who invited was removed. (Of what else may be why it is told nothing: who
// was removed himself could ask so for what was said since, by a join that leans on old events. Who invited had all up to his own removal.)
func (p *plan) turnAway(join *matrix.Event, from matrix.ServerName) error {
	if join.Membership() != matrix.MemberJoin || join.Server() != from || p.census.servers[from] > 0 {
		return nil
	}
	if in, err := p.admitted(p.current, p.r.contacts([]matrix.ServerName{from})); len(in) == 0 || err != nil {
		return err
	}
	for _, id := range join.AuthEvents() {
		invite, err := p.byID(id)
		if err != nil {
			return err
		}
		if invite == nil || invite.ev.Membership() != matrix.MemberInvite {
			continue
		}
		by, err := p.byID(p.current[matrix.StateKey{Type: matrix.TypeMember, Key: string(invite.ev.Sender())}])
		if err != nil {
			return err
		}
		if by != nil && decides(by.ev) {
			return p.tellWhy(from, by)
		}
	}
	return nil
}

// removedAfter is the newest event after a place by which somebody else ended a local user's stay, while the node was in the room; nil: none. (What came after that, as the end of a
// ban, is no part of the graph here: ended.go.)
func (q *reading) removedAfter(u matrix.UserID, at seq) (by *held, err error) {
	err = q.rd.ScanBack(historyPrefix(q.n, u), nil, func(k, v []byte) (bool, error) {
		if seqFromKey(k) <= at {
			return false, nil
		}
		m, h, err := decodeMember(v)
		if err != nil || m != matrix.MemberLeave && m != matrix.MemberBan {
			return err == nil, err
		}
		e, err := q.held(h)
		if e != nil && !e.outlier && e.ev.Sender() != u {
			by = e
		}
		return by == nil, err
	})
	return by, err
}

func partedKey(n uint32, s matrix.ServerName) []byte {
	return append([]byte{tabAsking, 'e', byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, s...)
}

// decides tells whether an event can be why somebody is not let in.
func decides(ev *matrix.Event) bool {
	switch ev.Type() {
	case matrix.TypePowerLevels, matrix.TypeJoinRules:
		return true
	case matrix.TypeMember:
		m := ev.Membership()
		return (m == matrix.MemberLeave || m == matrix.MemberBan) && ev.StateKey() != nil && *ev.StateKey() != string(ev.Sender())
	}
	return false
}

// standDown lets local users leave whose joins are refused where an event came from that this plan took. In its transaction: no crash leaves
// them behind.
func (p *plan) standDown() error {
	for _, h := range p.verdicts {
		e := p.changed[h]
		before, err := p.state(e.before)
		if err != nil {
			return err
		}
		after, err := p.state(e.after)
		if err != nil {
			return err
		}
		var locals []matrix.UserID
		for u, m := range p.census.locals {
			if m == matrix.MemberJoin {
				locals = append(locals, u)
			}
		}
		slices.Sort(locals)
		for _, u := range locals {
			if refused, err := p.refuses(e.ev, before, after, u); !refused || err != nil {
				if err != nil {
					return err
				}
				continue
			}
			key := string(u)
			_, err := p.author(matrix.Proto{Sender: u, Type: matrix.TypeMember, StateKey: &key,
				Content: p.r.memberContent(u, matrix.MemberLeave, "Whoever let you in was being removed: the others did not see you come.", false)})
			if err != nil && !errors.Is(err, ErrForbidden) {
				return err
			}
		}
	}
	p.verdicts = nil
	return nil
}

// refuses tells whether a local user's join is refused by a server that had an event, and the state after it, before it had the join: it takes what
// the join leans on one after the other, as that server does, and lets go what that state does not allow (soft failure).
func (p *plan) refuses(ev *matrix.Event, before, after dag.State, u matrix.UserID) (bool, error) {
	own := matrix.StateKey{Type: matrix.TypeMember, Key: string(u)}
	join := p.current[own]
	if join == "" || before[own] == join {
		return false, nil
	}
	j, err := p.byID(join)
	if err != nil || j == nil {
		return false, err
	}
	stood, err := p.state(j.before)
	if err != nil {
		return false, err
	}
	if slot, _ := ev.Slot(); stood[slot] == ev.ID() {
		return false, nil // the join came after it
	}
	chain, err := dag.AuthChain(p, []matrix.EventID{join})
	if errors.Is(err, dag.ErrIncomplete) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var events []*matrix.Event
	var there []matrix.EventID // of what the join leans on, what that server has in its place
	for _, id := range append(chain, join) {
		x, err := p.byID(id)
		if err != nil || x == nil {
			return false, err
		}
		slot, ok := x.ev.Slot()
		if !ok {
			continue
		}
		events = append(events, x.ev)
		if at := after[slot]; at != "" && !slices.Contains(there, at) {
			there = append(there, at)
		}
	}
	known, err := dag.AuthChain(p, there)
	if errors.Is(err, dag.ErrIncomplete) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	known = append(known, there...)
	slices.SortFunc(events, byDepth)
	for _, x := range events {
		if slices.Contains(known, x.ID()) {
			continue
		}
		switch err := dag.Allowed(p, p.row.version, after, x); {
		case err == nil:
			slot, _ := x.Slot()
			after = after.With(slot, x.ID())
		case !errors.Is(err, dag.ErrNotAllowed):
			return false, nil // it cannot be told
		case x.ID() == join:
			return true, nil
		}
	}
	return false, nil
}
