// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/crypto/onionid"
	"tarn/dag"
	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
	"tarn/matrix"
	"tarn/replicate"
	"tarn/room"
	"tarn/store"
)

// TestASecondImplementationTalksToTheFirst plays a node that was written from SPEC.md against the real engine, room and
// mailbox: link, first contact, number, invite with its snapshot, join, want, message, acknowledgements.
func TestASecondImplementationTalksToTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := mailboxtest.New(t)
		rooms, engine, user := firstImplementation(t, box)
		s := &second{t: t, dialer: box.Dialer(), onion: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, 32)), signing: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{6}, 32))}
		me := matrix.UserID("@second:" + nameOf(public(s.onion)))
		link, err := engine.Invite(t.Context(), 24*time.Hour)
		s.check(err)
		id, err := rooms.Create(t.Context(), room.Create{Creator: user, Preset: "private_chat", Invite: []matrix.UserID{me}})
		s.check(err)
		since := time.Now()
		s.accept(link.String())

		// The invite, with the room.
		r := &reader{t, s.await(2, since)}
		s.must(string(r.str()) == string(id) && string(r.str()) == "12", "room or version")
		invite, heads := string(r.str()), r.list()
		events, state, certificates := r.list(), r.list(), r.list()
		r.end()
		s.must(len(heads) == 1 && string(heads[0]) == invite && len(state) == len(events)-1 && len(certificates) == 1, "snapshot")
		s.certificateOf(ed25519.PublicKey(keyOf(t, user.Homeserver())), certificates[0])
		cs, err := engine.Contacts()
		s.check(err)
		s.must(s.nonce != nil, "the hello came first")
		s.must(len(cs) == 1 && cs[0].State == replicate.Active && cs[0].Number == numberOf(s.number, s.nonce), "the number that people compare")

		// The join, built on the invite; then a message; then a want for the invite.
		auth := map[string]string{}
		depth := int64(0)
		for _, raw := range events {
			ev, err := matrix.Parse("12", raw)
			s.check(err)
			if k := ev.StateKey(); k != nil && (ev.Type() != "m.room.member" || matrix.UserID(*k) == me) {
				auth[ev.Type()] = string(ev.ID())
			}
			depth = max(depth, ev.Depth())
		}
		keyID := vectors["onionid"](block{"onion seed": strings.Repeat("05", 32), "signing seed": strings.Repeat("06", 32)})["key id"]
		build := func(typ string, key *string, content string, auth, prev []matrix.EventID) *matrix.Event {
			depth++
			ev, err := matrix.Build("12", matrix.Proto{Room: id, Sender: me, Type: typ, StateKey: key, Content: json.RawMessage(content), Time: time.Now(),
				AuthEvents: auth, PrevEvents: prev, Depth: depth}, matrix.Signer{Server: onionid.Name(nameOf(public(s.onion))), KeyID: keyID, Key: s.signing})
			s.check(err)
			return ev
		}
		mine := string(me)
		levels, rules := matrix.EventID(auth["m.room.power_levels"]), matrix.EventID(auth["m.room.join_rules"])
		join := build("m.room.member", &mine, `{"membership":"join"}`, []matrix.EventID{levels, rules, matrix.EventID(auth["m.room.member"])}, []matrix.EventID{matrix.EventID(invite)})
		say := build("m.room.message", nil, `{"body":"written from the specification","msgtype":"m.text"}`, []matrix.EventID{levels, join.ID()}, []matrix.EventID{join.ID()})
		since = time.Now()
		// Out of order, and with a type that nobody knows: both are allowed.
		s.send(pieceOf(200, []byte("of a later version")), pieceOf(1, cat(str(string(id)), str(""), list(string(say.Raw())))))
		s.send(pieceOf(1, cat(str(string(id)), str("12"), list(string(join.Raw())))), pieceOf(4, cat(str(string(id)), list(invite))))
		accepted := func(ev *matrix.Event) bool {
			st, err := rooms.Status(id, ev.ID())
			if err != nil && !errors.Is(err, room.ErrUnknownEvent) {
				t.Fatal(err)
			}
			return err == nil && st == dag.Accepted
		}
		for end := time.Now().Add(2 * time.Hour); !accepted(say); time.Sleep(time.Minute) {
			s.must(time.Now().Before(end), "the message was not taken within two hours")
		}

		// The answer to the want.
		r = &reader{t, s.await(1, since)}
		s.must(string(r.str()) == string(id), "room")
		r.str()
		found := false
		for _, raw := range r.list() {
			ev, err := matrix.Parse("12", raw)
			s.check(err)
			found = found || string(ev.ID()) == invite
		}
		r.end()
		s.must(found, "the wanted event")

		// Its acknowledgement of our two boxes came along, or comes; ours empties its outbox.
		s.send()
		for end := time.Now().Add(6 * time.Hour); ; time.Sleep(time.Minute) {
			cs, err := engine.Contacts()
			s.check(err)
			if cs[0].Waiting == 0 && cs[0].Unacked == 0 {
				break
			}
			if cs[0].Unacked > 0 && time.Now().After(since.Add(3*time.Hour)) { // heads came meanwhile
				s.receive(since)
				s.send()
			}
			s.must(time.Now().Before(end), "the outbox is not empty within six hours")
		}
		for _, x := range box.Transactions() {
			s.must(x.Up == 10956 && x.Down == 8466, "a transaction of another size")
		}
	})
}

// keyOf is the key that a server name spells out.
func keyOf(t *testing.T, server string) []byte {
	key, err := onionid.Name(server).Key()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// firstImplementation is Tarn's own.
func firstImplementation(t *testing.T, box *mailboxtest.Mailbox) (*room.Rooms, *replicate.Engine, matrix.UserID) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	onion, signing := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32)), ed25519.NewKeyFromSeed(bytes.Repeat([]byte{2}, 32))
	server := onionid.FromKey(public(onion))
	cert := onionid.Certify(onion, public(signing))
	kv := store.OpenMemory()
	stream, err := store.OpenStream(kv)
	check(err)
	rooms, err := room.Open(kv, stream, room.Options{Signer: matrix.Signer{Server: server, KeyID: cert.KeyID, Key: signing}, Certificate: cert})
	check(err)
	engine, err := replicate.New(replicate.Config{
		KV: kv, Rooms: rooms, Stores: []mailbox.Address{box.Address()}, Profile: replicate.CustomProfile(10*time.Second, 0.3),
		Identity: replicate.Identity{Key: onion, Name: server, Certificate: cert}, Seed: [32]byte{7}, Log: slog.New(slog.DiscardHandler),
		Dial: func(a mailbox.Address) replicate.Mailbox { return mailbox.NewClient(a, box.Dialer()) },
	})
	check(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- engine.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the engine: %v", err)
		}
		kv.Close()
	})
	return rooms, engine, matrix.UserID("@first:" + string(server))
}
