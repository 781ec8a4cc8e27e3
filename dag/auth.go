// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"time"

	"maunium.net/go/mautrix/federation/eventauth"
	"maunium.net/go/mautrix/federation/pdu"
	"maunium.net/go/mautrix/id"

	"tarn/matrix"
)

// AuthEvents selects the auth events of a new event from the state (spec: "Auth events selection"; v12: not the create event).
func AuthEvents(version matrix.RoomVersion, s State, p matrix.Proto) []matrix.EventID {
	content := p.Content
	if content == nil {
		content = []byte("{}")
	}
	return pick(s, (&pdu.PDU{
		Type: p.Type, StateKey: p.StateKey, Sender: p.Sender, Content: jsontext.Value(content),
	}).AuthEventSelection(version))
}

// pick is the events of s under keys, in their order.
func pick(s State, keys pdu.AuthEventSelection) []matrix.EventID {
	out := make([]matrix.EventID, 0, len(keys))
	for _, k := range keys {
		if id, ok := s[matrix.StateKey{Type: k.Type, Key: k.StateKey}]; ok {
			out = append(out, id)
		}
	}
	return out
}

// Allowed checks ev against a state (spec: authorization rules of the version), with the library's panics turned into errors.
// ErrNotAllowed: the rules say no. Other errors are the view's, or ErrIncomplete.
func Allowed(v View, version matrix.RoomVersion, s State, ev *matrix.Event) error {
	create, err := createOf(v, version, ev)
	if err != nil {
		return err
	}
	ids := pick(s, ev.PDU().AuthEventSelection(version))
	auth := make([]*matrix.Event, len(ids))
	for i, x := range ids {
		if auth[i], _, err = event(v, x); err != nil {
			return fmt.Errorf("checking an event against a state: %w", err)
		}
	}
	return allowedBy(version, ev, create, auth)
}

// createOf is the create event of a version 12 room, which no event names but by its room id; nil for older versions.
func createOf(v View, version matrix.RoomVersion, ev *matrix.Event) (*matrix.Event, error) {
	if !version.RoomIDIsCreateEventID() || ev.Type() == matrix.TypeCreate {
		return nil, nil
	}
	create, status, err := event(v, matrix.CreateEventID(version, ev.Room()))
	if err != nil {
		return nil, fmt.Errorf("finding the create event: %w", err)
	}
	if create.Type() != matrix.TypeCreate || status == Rejected {
		return nil, fmt.Errorf("%w: the room id is not that of a create event", ErrNotAllowed)
	}
	return create, nil
}

// allowedBy judges ev by a choice of state events, none of the same slot twice (checks 5 and 6, state resolution).
func allowedBy(version matrix.RoomVersion, ev, create *matrix.Event, auth []*matrix.Event) error {
	pdus := make([]*pdu.PDU, 0, len(auth)) // not nil: nil means "by its own auth events"
	for _, a := range auth {
		if a != create {
			pdus = append(pdus, a.PDU())
		}
	}
	return judge(version, ev, create, pdus, nil)
}

// allowedByOwn judges ev by its own auth events (check 4), which stand in the order in which ev names them.
func allowedByOwn(version matrix.RoomVersion, ev, create *matrix.Event, own []*matrix.Event) error {
	return judge(version, ev, create, nil, own)
}

// judge asks the library. A panic in it is a rejection: allowPowerChangeMap dereferences nil when a user removes the
// power of another of the same level, which the spec rejects. No code of ours runs under the recover.
func judge(version matrix.RoomVersion, ev, create *matrix.Event, given []*pdu.PDU, own []*matrix.Event) (err error) {
	get := func(ids []id.EventID) ([]*pdu.PDU, error) {
		out := make([]*pdu.PDU, len(ids))
		for i, x := range ids {
			if create != nil && create.ID() == x {
				out[i] = create.PDU()
				continue
			}
			for _, a := range own {
				if a.ID() == x {
					out[i] = a.PDU()
				}
			}
			if out[i] == nil {
				return nil, errors.New("event not given")
			}
		}
		return out, nil
	}
	p, keys := vouched(version, ev)
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: the rules have no answer (%v)", ErrNotAllowed, r)
		}
	}()
	if err := eventauth.Authorize(version, p, given, get, keys); err != nil {
		return fmt.Errorf("%w: %w", ErrNotAllowed, err)
	}
	return nil
}

// vouched is ev as the library wants it. It checks the authorising server's signature of a restricted join at every
// judgement; we checked it when the event came (matrix.Event.Verify) and have no keys here. So it gets a copy that a
// throw-away key signed in that server's name. Other events go as they are.
func vouched(version matrix.RoomVersion, ev *matrix.Event) (*pdu.PDU, pdu.GetKeyFunc) {
	p := ev.PDU()
	by := ev.ContentString("join_authorised_via_users_server")
	if ev.Type() != matrix.TypeMember || by == "" {
		return p, noKeys
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	const keyID = "ed25519:verified"
	p = p.Clone()
	p.Signatures = nil
	server := id.UserID(by).Homeserver()
	if err := p.Sign(version, server, keyID, key); err != nil {
		return ev.PDU(), noKeys
	}
	pub := id.SigningKey(base64.RawStdEncoding.EncodeToString(key.Public().(ed25519.PublicKey)))
	return p, func(string, id.KeyID, time.Time) (id.SigningKey, time.Time, error) {
		return pub, time.UnixMilli(matrix.MaxDepth), nil // valid as long as an event's time can say
	}
}

// noKeys knows no key: signatures are no concern of this package.
func noKeys(string, id.KeyID, time.Time) (id.SigningKey, time.Time, error) {
	return "", time.Time{}, matrix.ErrUnknownKey
}
