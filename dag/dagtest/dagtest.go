// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

// Package dagtest holds rooms in memory for tests: a [View] that dag can work on, a [Room] that takes deliveries as a node
// does, and [Branch]es that several servers build and fork with their clocks apart.
//
// The problem: what dag decides shows its mistakes only in forks, and a fork by hand is fifty lines of ids. Nothing here
// is safe for concurrent use, and nothing is ever forgotten.
package dagtest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"tarn/crypto/onionid"
	"tarn/dag"
	"tarn/matrix"
)

// Server is a server with its keys.
type Server struct {
	matrix.Signer
	Onion ed25519.PrivateKey // the server name's own key
}

// NewServer makes the server of a number: the same number, the same keys.
func NewServer(n int) Server {
	seed := func(use byte) ed25519.PrivateKey {
		b := bytes.Repeat([]byte{use}, ed25519.SeedSize)
		b[0], b[1], b[2] = byte(n), byte(n>>8), byte(n>>16)
		return ed25519.NewKeyFromSeed(b)
	}
	onion, key := seed(1), seed(2)
	return Server{
		Signer: matrix.Signer{
			Server: onionid.FromKey(onion.Public().(ed25519.PublicKey)),
			KeyID:  onionid.KeyID(key.Public().(ed25519.PublicKey)),
			Key:    key,
		},
		Onion: onion,
	}
}

// User is a user of s.
func (s Server) User(localpart string) User {
	return User{ID: matrix.UserID("@" + localpart + ":" + string(s.Server)), Signer: s.Signer}
}

// User is a user with the keys of the server.
type User struct {
	ID     matrix.UserID
	Signer matrix.Signer
}

// Keys knows the signing keys of servers.
func Keys(servers ...Server) matrix.KeyFunc {
	return func(server matrix.ServerName, keyID string) (ed25519.PublicKey, error) {
		for _, s := range servers {
			if s.Server == server && s.KeyID == keyID {
				return s.Key.Public().(ed25519.PublicKey), nil
			}
		}
		return nil, matrix.ErrUnknownKey
	}
}

// Held is an event in a View.
type Held struct {
	Event  *matrix.Event
	Status dag.Status
	After  dag.State // nil: an outlier
}

// View is a dag.View in memory.
type View struct {
	Events     map[matrix.EventID]Held
	referenced map[matrix.EventID]bool
	Reads      int // of events; for tests of how much is read
}

var (
	_ dag.View       = (*View)(nil)
	_ dag.Referencer = (*View)(nil)
)

// NewView is an empty view.
func NewView() *View {
	return &View{Events: map[matrix.EventID]Held{}, referenced: map[matrix.EventID]bool{}}
}

// Event implements dag.View.
func (v *View) Event(id matrix.EventID) (*matrix.Event, dag.Status, error) {
	v.Reads++
	h := v.Events[id]
	return h.Event, h.Status, nil
}

// StateAfter implements dag.View. An event that is not held is an error.
func (v *View) StateAfter(id matrix.EventID) (dag.State, error) {
	h, ok := v.Events[id]
	if !ok {
		return nil, fmt.Errorf("dagtest: %w: %s", dag.ErrIncomplete, id)
	}
	return h.After, nil
}

// Referenced implements dag.Referencer.
func (v *View) Referenced(id matrix.EventID) (bool, error) { return v.referenced[id], nil }

// Put holds an event; after nil: as an outlier.
func (v *View) Put(ev *matrix.Event, status dag.Status, after dag.State) {
	v.Events[ev.ID()] = Held{ev, status, after}
	if status == dag.Accepted && after != nil {
		for _, p := range ev.PrevEvents() {
			v.referenced[p] = true
		}
	}
}

// Room is a room as one node has it.
type Room struct {
	*View
	dag.Room
	waiting []*matrix.Event // for parents
}

// NewRoom is a room of which nothing is known.
func NewRoom(id matrix.RoomID, version matrix.RoomVersion) *Room {
	return &Room{View: NewView(), Room: dag.Room{ID: id, Version: version}}
}

// Deliver inserts an event, and those that waited for it; one that lacks parents waits, one that is held is left out.
// The result is that of ev itself.
func (r *Room) Deliver(ev *matrix.Event) (dag.Insertion, error) {
	if h, ok := r.Events[ev.ID()]; ok && h.After != nil {
		return dag.Insertion{Status: h.Status}, nil
	}
	first, err := r.insert(ev)
	if err != nil {
		return dag.Insertion{}, err
	}
	for again := len(first.Missing) == 0; again; {
		again = false
		waiting := r.waiting
		r.waiting = nil
		for _, w := range waiting {
			if _, held := r.Events[w.ID()]; held {
				continue
			}
			in, err := r.insert(w)
			if err != nil {
				return dag.Insertion{}, err
			}
			again = again || len(in.Missing) == 0
		}
	}
	return first, nil
}

// insert inserts one event and stores what came of it.
func (r *Room) insert(ev *matrix.Event) (dag.Insertion, error) {
	in, err := dag.Insert(r.View, r.Room, ev)
	if err != nil {
		return in, err
	}
	if len(in.Missing) > 0 {
		r.waiting = append(r.waiting, ev)
		return in, nil
	}
	r.Put(ev, in.Status, in.After)
	r.Heads, r.Current = in.Heads, in.Current
	return in, nil
}

// Waiting is how many events wait for parents.
func (r *Room) Waiting() int { return len(r.waiting) }

// Branch is one line of a room as those who write on it see it.
type Branch struct {
	View  *View // shared by the branches of a room
	Ord   *[]*matrix.Event
	Room  dag.Room // Heads and Current are this branch's
	Depth int64
	Now   time.Time     // of the next event
	Step  time.Duration // by which Now moves with each event
	Bare  bool          // for large rooms: no rules checked, no state kept but the current one, which is changed in place
}

// Start is the beginning of time in tests.
var Start = time.UnixMilli(1_700_000_000_000)

// NewBranch creates a room by creator: the create event, with extra content, and the creator's join.
func NewBranch(version matrix.RoomVersion, creator User, extra map[string]any) (*Branch, error) {
	b := &Branch{View: NewView(), Ord: new([]*matrix.Event), Room: dag.Room{Version: version}, Now: Start, Step: time.Second}
	// No nonce: the same calls make the same ids, on which ties depend.
	content := map[string]any{"room_version": version}
	if version.CreatorInContent() {
		content["creator"] = creator.ID
	}
	maps.Copy(content, extra)
	if !version.RoomIDIsCreateEventID() {
		b.Room.ID = matrix.RoomID("!room:" + string(creator.Signer.Server))
	}
	if _, err := b.Send(creator, matrix.TypeCreate, Key(""), content); err != nil {
		return nil, err
	}
	_, err := b.Send(creator, matrix.TypeMember, Key(string(creator.ID)), `{"membership":"join"}`)
	return b, err
}

// Key is a state key.
func Key(s string) *string { return &s }

// Fork is a second line that starts where b is. Both change on their own.
func (b *Branch) Fork() *Branch {
	f := *b
	f.Room.Heads = slices.Clone(b.Room.Heads)
	if b.Bare {
		f.Room.Current = maps.Clone(b.Room.Current)
	}
	return &f
}

// Unchecked is a fork for large rooms: no rules are checked, and no states are kept but the current one.
func (b *Branch) Unchecked() *Branch {
	f := b.Fork()
	f.Bare = true
	f.Room.Current = maps.Clone(b.Room.Current)
	return f
}

// Merge makes b follow o too. Neither may be Bare.
func (b *Branch) Merge(o *Branch) error {
	for _, h := range o.Room.Heads {
		if !slices.Contains(b.Room.Heads, h) {
			b.Room.Heads = append(slices.Clone(b.Room.Heads), h)
		}
	}
	sets := make([]dag.State, len(b.Room.Heads))
	for i, h := range b.Room.Heads {
		sets[i] = b.View.Events[h].After
	}
	s, err := dag.Resolve(b.View, b.Room.Version, sets)
	if err != nil {
		return err
	}
	b.Room.Current = s
	b.Depth = max(b.Depth, o.Depth)
	if o.Now.After(b.Now) {
		b.Now = o.Now
	}
	return nil
}

// Proto is the next event on b: content is a string of JSON, a json.RawMessage, or anything that marshals.
func (b *Branch) Proto(u User, typ string, key *string, content any) (matrix.Proto, error) {
	var raw json.RawMessage
	switch c := content.(type) {
	case string:
		raw = json.RawMessage(c)
	case json.RawMessage:
		raw = c
	default:
		var err error
		if raw, err = json.Marshal(c); err != nil {
			return matrix.Proto{}, err
		}
	}
	p := matrix.Proto{
		Room: b.Room.ID, Sender: u.ID, Type: typ, StateKey: key, Content: raw,
		PrevEvents: b.Room.Heads, Depth: b.Depth + 1, Time: b.Now,
	}
	p.AuthEvents = dag.AuthEvents(b.Room.Version, b.Room.Current, p)
	return p, nil
}

// Send puts the user's event on the line. An error that wraps dag.ErrNotAllowed: the rules forbid it there; the event is
// returned with it, and nothing is changed.
func (b *Branch) Send(u User, typ string, key *string, content any) (*matrix.Event, error) {
	p, err := b.Proto(u, typ, key, content)
	if err != nil {
		return nil, err
	}
	ev, err := matrix.Build(b.Room.Version, p, u.Signer)
	if err != nil {
		return nil, err
	}
	if !b.Bare {
		if err := dag.Allowed(b.View, b.Room.Version, b.Room.Current, ev); err != nil {
			return ev, fmt.Errorf("%s by %s: %w", typ, u.ID, err)
		}
	}
	b.Put(ev)
	return ev, nil
}

// Put makes ev the line's head, unchecked.
func (b *Branch) Put(ev *matrix.Event) {
	b.Room.ID = ev.Room()
	if slot, ok := ev.Slot(); ok {
		if b.Bare {
			b.Room.Current[slot] = ev.ID()
		} else {
			b.Room.Current = b.Room.Current.With(slot, ev.ID())
		}
	}
	b.Room.Heads = []matrix.EventID{ev.ID()}
	b.Depth++
	b.Now = b.Now.Add(b.Step)
	var after dag.State
	if !b.Bare {
		after = b.Room.Current
	}
	if _, twice := b.View.Events[ev.ID()]; !twice { // two branches can do the same at the same time
		*b.Ord = append(*b.Ord, ev)
	}
	b.View.Put(ev, dag.Accepted, after)
}

// PutRejected makes ev the line's head although the rules forbid it there, as a bad server would: the state stays as it is.
func (b *Branch) PutRejected(ev *matrix.Event) {
	b.Room.Heads = []matrix.EventID{ev.ID()}
	b.Depth++
	if _, twice := b.View.Events[ev.ID()]; !twice {
		*b.Ord = append(*b.Ord, ev)
	}
	b.View.Put(ev, dag.Rejected, b.Room.Current)
}

// Must is Send that panics: for the parts of a test that are not its question.
func (b *Branch) Must(u User, typ string, key *string, content any) *matrix.Event {
	ev, err := b.Send(u, typ, key, content)
	if err != nil {
		panic(err)
	}
	return ev
}

// Join makes a user a member by an own join.
func (b *Branch) Join(u User) *matrix.Event {
	return b.Must(u, matrix.TypeMember, Key(string(u.ID)), `{"membership":"join"}`)
}

// Member sets another's membership: "invite", "leave", "ban".
func (b *Branch) Member(by, whom User, membership string) (*matrix.Event, error) {
	return b.Send(by, matrix.TypeMember, Key(string(whom.ID)), map[string]string{"membership": membership})
}

// Holds is the event that holds in a slot, or "".
func (b *Branch) Holds(typ, key string) matrix.EventID {
	return b.Room.Current[matrix.StateKey{Type: typ, Key: key}]
}
