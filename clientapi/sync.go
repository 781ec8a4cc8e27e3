// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"context"
	"time"

	"tarn/matrix"
	"tarn/push"
	"tarn/room"
	"tarn/store"
)

// maxPoll is the longest that a /sync waits, whatever the client asks for.
const maxPoll = 5 * time.Minute

// syncQuery is a /sync request.
type syncQuery struct {
	since   store.Pos // with initial: 0
	inbox   store.Pos // up to where the device has its to-device events: since, or less
	initial bool      // no since: everything, at once
	full    bool      // full_state
	timeout time.Duration
	filter  *syncFilter
	after   string // the name under which state at the timeline's end goes (MSC4222); "": that at its start is given
}

func (a *API) syncQuery(c *call) (q syncQuery, err error) {
	if s := c.query("since"); s == "" {
		q.initial = true
	} else if q.since, q.inbox, err = parseSyncToken(s); err != nil {
		return q, err
	} else if q.since > a.stream.Current() {
		// A token from after a backup was restored: positions that this database never gave. Everything anew heals it.
		q.since, q.inbox, q.initial = 0, 0, true
	}
	switch c.query("full_state") {
	case "", "false":
	case "true":
		q.full = true
	default:
		return q, invalid("full_state must be true or false")
	}
	for name, under := range map[string]string{"use_state_after": "state_after", "org.matrix.msc4222.use_state_after": "org.matrix.msc4222.state_after"} {
		switch c.query(name) {
		case "", "false":
		case "true":
			if q.after == "" || under == "state_after" {
				q.after = under
			}
		default:
			return q, invalid("%s must be true or false", name)
		}
	}
	ms, err := c.queryInt("timeout", 0)
	if err != nil {
		return q, err
	}
	q.timeout = time.Duration(min(max(ms, 0), maxPoll.Milliseconds())) * time.Millisecond
	q.filter, err = a.filterOf(c)
	return q, err
}

// sync: GET /sync. It answers at once if there is something, or if since is empty or full_state is asked for; else it
// sleeps until the stream wakes the user's topic, the timeout ends, the client goes or the server stops.
//
// No change is missed: Current is read before the database, so what the answer leaves out has a later position than
// its next_batch.
func (a *API) sync(c *call) (any, error) {
	q, err := a.syncQuery(c)
	if err != nil {
		return nil, err
	}
	state, err := c.syncPresence()
	if err != nil {
		return nil, err
	}
	defer a.here(c.who.User, state)()
	// What its token tells that the device has is forgotten, before anything is answered.
	if err := a.accounts.AckInbox(c.who.User, c.who.Device, q.inbox); err != nil {
		return nil, err
	}
	ctx, cancel := c.drain()
	defer cancel()
	ctx, cancelTimeout := context.WithTimeout(ctx, q.timeout)
	defer cancelTimeout()
	for {
		upTo := max(a.stream.Current(), q.since)
		out, err := a.syncOnce(c, q, upTo)
		if err != nil {
			return nil, err
		}
		if q.initial || q.full || !out.nothing() || ctx.Err() != nil {
			a.sending.settle(c.r.Context(), c.who)
			return out, nil
		}
		// Nothing up to there was for this client: it need not be looked at again.
		q.since, q.inbox = upTo, upTo
		if _, err := a.stream.Wait(ctx, string(c.who.User), upTo); err != nil && ctx.Err() == nil {
			return nil, err
		}
		// The session may have ended meanwhile.
		if err := a.still(c); err != nil {
			return nil, err
		}
	}
}

// syncOnce collects what there is in (q.since, upTo].
func (a *API) syncOnce(c *call, q syncQuery, upTo store.Pos) (*syncAnswer, error) {
	f := &q.filter.Room
	o := room.SyncOptions{
		Device: c.who.Device, TimelineLimit: defaultTimeline, FullState: q.full, IncludeLeave: f.IncludeLeave,
	}
	if f.Timeline.Limit != nil {
		o.TimelineLimit = min(*f.Timeline.Limit, maxTimeline)
	}
	keepRoom := func(r matrix.RoomID) bool { return allows(f.Rooms, f.NotRooms, string(r)) }
	if f.Rooms != nil || f.NotRooms != nil {
		o.KeepRoom = keepRoom
	}
	if !f.Timeline.all() {
		o.KeepTimeline = f.Timeline.keepsEntry
	}
	o.LazyMembers = f.State.LazyLoad || f.Timeline.LazyLoad
	if q.after != "" {
		o.Wish = func(ch *room.Change) room.Wish { return stateAfter(ch, c.who.User, o) }
	}
	ignored, err := a.ignored(c.who.User)
	if err != nil {
		return nil, err
	}
	closed, err := a.closed(c.who.User)
	if err != nil {
		return nil, err
	}
	if len(ignored) > 0 {
		o.KeepTimeline = func(e room.Entry) bool { return f.Timeline.keepsEntry(e) && !unheard(ignored, e.Event) }
	}
	out := newSyncAnswer(c.who.User, upTo)
	newly := map[matrix.RoomID]bool{}
	counting := counting{judging{a: a, user: c.who.User}, upTo, f.Timeline.UnreadPer}
	if err := a.rooms.EachChange(c.who.User, q.since, upTo, o, func(ch *room.Change) error {
		if ch.Newly && q.since > 0 {
			newly[ch.Room] = true
		}
		if closed && ch.Membership == matrix.MemberInvite || len(ignored) > 0 && hush(ignored, ch) {
			return nil
		}
		if err := out.add(ch, q.filter, q.after); err != nil {
			return err
		}
		return counting.room(ch.Room, out) // now, while the room's events are in memory
	}); err != nil {
		return nil, err
	}
	if err := a.addData(c, q, upTo, keepRoom, newly, out); err != nil {
		return nil, err
	}
	if err := a.addPresence(c, q, upTo, ignored, out); err != nil {
		return nil, err
	}
	for id := range out.Rooms.Join {
		if err := counting.room(id, out); err != nil {
			return nil, err
		}
	}
	if err := a.addEncryption(c, q, upTo, out); err != nil {
		return nil, err
	}
	return out, nil
}

// stateAfter is the state that goes with a timeline that does not change it: all that changed, and with lazy loading of
// the members those that the timeline needs.
func stateAfter(ch *room.Change, user matrix.UserID, o room.SyncOptions) (w room.Wish) {
	if !o.LazyMembers {
		w.Changed = func(matrix.StateKey) bool { return true }
		return w
	}
	needed := ch.Needed()
	full := ch.Newly || o.FullState
	if full {
		needed[user] = true
		for _, u := range ch.Heroes {
			needed[u] = true
		}
	}
	w.Changed = func(k matrix.StateKey) bool { return !full || k.Type != matrix.TypeMember }
	for u := range needed {
		w.Also = append(w.Also, matrix.StateKey{Type: matrix.TypeMember, Key: string(u)})
	}
	return w
}

// addData puts in the account data. A room that the user came into after since gets all of its own, however old.
func (a *API) addData(c *call, q syncQuery, upTo store.Pos, keep func(matrix.RoomID) bool, newly map[matrix.RoomID]bool, out *syncAnswer) error {
	from := q.since
	if q.full {
		from = 0
	}
	data, err := a.accounts.DataSince(c.who.User, from, upTo)
	if err != nil {
		return err
	}
	if len(newly) > 0 && from > 0 {
		all, err := a.accounts.DataSince(c.who.User, 0, upTo)
		if err != nil {
			return err
		}
		for _, d := range all {
			if d.Pos <= from && newly[d.Room] {
				data = append(data, d)
			}
		}
	}
	f := q.filter
	rules := false
	for _, d := range data {
		ev := dataEvent{Type: d.Type, Content: d.Content}
		if d.Room == "" {
			if f.AccountData.keepsType(d.Type) {
				out.AccountData.Events = append(out.AccountData.Events, ev)
			}
			rules = rules || d.Type == dataPushRules
			continue
		}
		if !keep(d.Room) || !f.Room.AccountData.keepsType(d.Type) || !f.Room.AccountData.keepsRoom(d.Room) {
			continue
		}
		j, err := a.joinedEntry(c, d.Room, upTo, out)
		if err != nil {
			return err
		}
		if j != nil {
			j.AccountData.Events = append(j.AccountData.Events, ev)
		}
	}
	// Who never changed a push rule has no such datum, but the default rules: they are in a client's first answer.
	if (q.initial || q.full) && !rules && f.AccountData.keepsType(dataPushRules) {
		out.AccountData.Events = append(out.AccountData.Events, dataEvent{Type: dataPushRules, Content: push.Default(c.who.User).Raw()})
	}
	return nil
}

// joinedEntry finds the room's entry, or makes one if the user is joined; nil: account data of a room that is not shown.
func (a *API) joinedEntry(c *call, r matrix.RoomID, upTo store.Pos, out *syncAnswer) (*joinedRoom, error) {
	if j := out.Rooms.Join[r]; j != nil {
		return j, nil
	}
	if out.Rooms.Leave[r] != nil || out.Rooms.Invite[r] != nil || out.Rooms.Knock[r] != nil {
		return nil, nil
	}
	m, err := a.rooms.Membership(c.who.User, r)
	if err != nil || m != "join" {
		return nil, ignoreUnknown(err)
	}
	j := newJoinedRoom()
	j.Timeline.PrevBatch = token(upTo)
	out.Rooms.Join[r] = j
	return j, nil
}
