// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"net/http"

	"tarn/matrix"
	"tarn/room"
)

// tagNotice marks the room of the notices for clients (C-S API, "Server Notices").
const tagNotice = "m.server_notice"

// ErrNoUser: a notice is for a user that is not here, or no more.
var ErrNoUser = errors.New("clientapi: there is no such user here")

// Notice sends the operator's words to a local user, in a room that only the two are in and that the user cannot leave (C-S API,
// "Server Notices"). ErrNoUser.
//
// A crash leaves, step by step: a room with an invite, a room that the user is in, a room with its tag; the next notice
// finds it and goes on from there.
func (a *API) Notice(ctx context.Context, user matrix.UserID, text string) (matrix.EventID, error) {
	ok, err := a.accounts.Exists(user)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", ErrNoUser
	}
	notices := a.accounts.Notices()
	a.telling.Lock() // else two would make two rooms
	defer a.telling.Unlock()
	id, err := a.noticesRoom(ctx, user)
	if err != nil {
		return "", fmt.Errorf("the room of the notices: %w", err)
	}
	content, err := json.Marshal(map[string]any{"msgtype": "m.server_notice", "body": text, "server_notice_type": "org.tarn.operator"})
	if err != nil {
		return "", err
	}
	return a.rooms.Send(ctx, room.NewEvent{Room: id, Sender: notices, Type: "m.room.message", Content: content})
}

// noticesRoom finds the user's room of notices, or makes it.
func (a *API) noticesRoom(ctx context.Context, user matrix.UserID) (matrix.RoomID, error) {
	notices := a.accounts.Notices()
	all, err := a.rooms.Joined(notices) // one a user of this node
	if err != nil {
		return "", err
	}
	for _, id := range all {
		ev, err := a.rooms.StateEvent(notices, id, matrix.StateKey{Type: matrix.TypeMember, Key: string(user)})
		if errors.Is(err, room.ErrNoState) {
			continue
		}
		if err != nil {
			return "", err
		}
		if m := ev.Membership(); m == matrix.MemberJoin || m == matrix.MemberInvite {
			return id, a.enterNotices(ctx, user, id, m)
		}
	}
	levels, err := json.Marshal(map[string]any{"users_default": -10}) // the user reads, and can do nothing else
	if err != nil {
		return "", err
	}
	id, err := a.rooms.Create(ctx, room.Create{Creator: notices, Preset: "private_chat", Name: "Server notices",
		Topic: "What the operator of your homeserver has to tell you", Invite: []matrix.UserID{user}, PowerLevels: levels})
	if err != nil {
		return "", err
	}
	return id, a.enterNotices(ctx, user, id, matrix.MemberInvite)
}

// enterNotices does what is left to do for a user that was invited.
func (a *API) enterNotices(ctx context.Context, user matrix.UserID, id matrix.RoomID, now string) error {
	if now == matrix.MemberInvite { // nobody is asked: it is their own server that speaks
		if _, err := a.rooms.SetMembership(ctx, id, user, user, matrix.MemberJoin, "", false); err != nil {
			return err
		}
	}
	defer a.edit(user)()
	t, err := a.readTags(user, id)
	if err != nil {
		return err
	}
	if _, found := t.Tags[tagNotice]; found {
		return nil
	}
	t.Tags[tagNotice] = []byte("{}")
	raw, err := json.Marshal(t, json.Deterministic(true))
	if err != nil {
		return err
	}
	return a.accounts.SetData(user, id, dataTags, raw)
}

// mayLeave: "servers respond 403 M_CANNOT_LEAVE_SERVER_NOTICE_ROOM to attempts to leave or reject the room".
func (a *API) mayLeave(user matrix.UserID, id matrix.RoomID) error {
	ev, err := a.rooms.StateEvent(user, id, matrix.StateKey{Type: matrix.TypeCreate})
	if err != nil {
		return nil // a room that the user does not see into, or that is not there: leaving it tells
	}
	if ev.Sender() == a.accounts.Notices() && user != ev.Sender() {
		return &Error{Status: http.StatusForbidden, Code: matrix.ErrcodeCannotLeaveNoticeRoom, Text: "this room is where your server speaks to you: it cannot be left"}
	}
	return nil
}
