// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"context"
	"errors"
	"time"

	"tarn/matrix"
	"tarn/room"
)

// membershipRequest is the body of all membership requests.
type membershipRequest struct {
	User   string `json:"user_id"`
	Reason string `json:"reason"`
}

// commit is the context of a change that goes on though its client goes: half of the clients that break off ask
// again, and then want to find it done. Bounded, so that nothing piles up.
func (c *call) commit() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(c.r.Context()), time.Minute)
}

// joinTarget: POST /join/{roomIdOrAlias}. server_name and via are not needed: what is known here is enough, or the
// room is not known.
func (a *API) joinTarget(c *call) (any, error) {
	target := c.path("target")
	if len(target) > 0 && target[0] == '#' {
		r, err := a.findAlias(target)
		if err != nil {
			return nil, err
		}
		return a.join(c, r)
	}
	r, err := roomID(target)
	if err != nil {
		return nil, invalid("neither a room id nor an alias")
	}
	return a.join(c, r)
}

// joinRoom: POST /rooms/{roomId}/join.
func (a *API) joinRoom(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	return a.join(c, r)
}

func (a *API) join(c *call, r matrix.RoomID) (any, error) {
	var q membershipRequest
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	// "If the user is already in the room, nothing changes": no second join event.
	if m, err := a.rooms.Membership(c.who.User, r); err == nil && m == "join" {
		return map[string]any{"room_id": r}, nil
	}
	if err := a.setMembership(c, r, c.who.User, "join", q.Reason); err != nil {
		if errors.Is(err, room.ErrUnknownRoom) {
			return nil, notFound("this room is not known here: ask for an invite")
		}
		return nil, err
	}
	unlock := a.edit(c.who.User)
	defer unlock()
	return map[string]any{"room_id": r}, a.carryOver(c.who.User, r)
}

// knock: POST /knock/{roomIdOrAlias}. Only of rooms that are known here.
func (a *API) knock(c *call) (any, error) {
	target := c.path("target")
	var r matrix.RoomID
	var err error
	if len(target) > 0 && target[0] == '#' {
		r, err = a.findAlias(target)
	} else if r, err = roomID(target); err != nil {
		err = invalid("neither a room id nor an alias")
	}
	if err != nil {
		return nil, err
	}
	var q membershipRequest
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	err = a.setMembership(c, r, c.who.User, matrix.MemberKnock, q.Reason)
	if errors.Is(err, room.ErrUnknownRoom) {
		return nil, notFound("this room is not known here: ask for an invite")
	}
	return map[string]any{"room_id": r}, err
}

func (a *API) setMembership(c *call, r matrix.RoomID, target matrix.UserID, membership, reason string) error {
	ctx, cancel := c.commit()
	defer cancel()
	_, err := a.rooms.SetMembership(ctx, r, c.who.User, target, membership, reason, false)
	return err
}

// leave: POST /rooms/{roomId}/leave; also rejects an invite.
func (a *API) leave(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	var q membershipRequest
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if m, err := a.rooms.Membership(c.who.User, r); err == nil && m == "leave" {
		return empty{}, nil // it is so already
	}
	if err := a.mayLeave(c.who.User, r); err != nil {
		return nil, err
	}
	return empty{}, a.setMembership(c, r, c.who.User, "leave", q.Reason)
}

// onOther is a membership change of somebody else.
func (a *API) onOther(c *call, membership string, check func(now string) error) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	var q membershipRequest
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	target, err := userID(q.User)
	if err != nil {
		return nil, err
	}
	if check != nil {
		now, err := a.membershipOf(c, r, target)
		if err != nil {
			return nil, err
		}
		if err := check(now); err != nil {
			return nil, err
		}
	}
	return empty{}, a.setMembership(c, r, target, membership, q.Reason)
}

// membershipOf reads target's membership as who asks sees it: "" if there is none.
func (a *API) membershipOf(c *call, r matrix.RoomID, target matrix.UserID) (string, error) {
	ev, err := a.rooms.StateEvent(c.who.User, r, matrix.StateKey{Type: "m.room.member", Key: string(target)})
	if errors.Is(err, room.ErrNoState) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return ev.Membership(), nil
}

// invite: POST /rooms/{roomId}/invite.
func (a *API) invite(c *call) (any, error) { return a.onOther(c, "invite", nil) }

// ban: POST /rooms/{roomId}/ban.
func (a *API) ban(c *call) (any, error) { return a.onOther(c, "ban", nil) }

// kick: POST /rooms/{roomId}/kick. A kick is not to lift a ban: that is what /unban is for.
func (a *API) kick(c *call) (any, error) {
	return a.onOther(c, "leave", func(now string) error {
		switch now {
		case "join", "invite", "knock":
			return nil
		}
		return forbidden("this user is not in the room")
	})
}

// unban: POST /rooms/{roomId}/unban.
func (a *API) unban(c *call) (any, error) {
	return a.onOther(c, "leave", func(now string) error {
		if now != "ban" {
			return forbidden("this user is not banned")
		}
		return nil
	})
}

// forget: POST /rooms/{roomId}/forget.
func (a *API) forget(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	err = a.rooms.Forget(c.who.User, r)
	if errors.Is(err, room.ErrForbidden) { // "M_UNKNOWN: the user has not left the room"
		return nil, &Error{Status: 400, Code: matrix.ErrcodeUnknown, Text: "leave the room first"}
	}
	return empty{}, err
}
