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

// joinTarget: POST /join/{roomIdOrAlias}.
func (a *API) joinTarget(c *call) (any, error) { return a.enterTarget(c, matrix.MemberJoin) }

// joinRoom: POST /rooms/{roomId}/join.
func (a *API) joinRoom(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	return a.enter(c, room.Seek{User: c.who.User, Membership: matrix.MemberJoin, Room: r})
}

// knock: POST /knock/{roomIdOrAlias}.
func (a *API) knock(c *call) (any, error) { return a.enterTarget(c, matrix.MemberKnock) }

// enterTarget joins, or knocks at, what the path names.
func (a *API) enterTarget(c *call, membership string) (any, error) {
	k := room.Seek{User: c.who.User, Membership: membership}
	target := c.path("target")
	if len(target) > 0 && target[0] == '#' {
		r, err := a.findAlias(target)
		if a.ofAnother(target) {
			k.Alias, err = target, nil
		}
		if k.Room = r; err != nil {
			return nil, err
		}
	} else {
		r, err := roomID(target)
		if err != nil {
			return nil, invalid("neither a room id nor an alias")
		}
		k.Room = r
	}
	return a.enter(c, k)
}

// seekLimit is how long a client waits for what another node must be asked: longer than a proxy would is no use.
const seekLimit = 20 * time.Second

// enter joins or knocks, with the help of other nodes where this one can not alone. "The servers to attempt to join the room through": via, and
// its older name server_name.
func (a *API) enter(c *call, k room.Seek) (any, error) {
	var q membershipRequest
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	k.Reason = q.Reason
	for _, name := range []string{"via", "server_name"} {
		for _, s := range c.r.URL.Query()[name] {
			k.Via = append(k.Via, matrix.ServerName(s))
		}
	}
	alone := false
	if k.Room != "" {
		// "If the user is already in the room, nothing changes": no second join event.
		if m, err := a.rooms.Membership(k.User, k.Room); err == nil && m == k.Membership {
			return map[string]any{"room_id": k.Room}, nil
		}
		var err error
		if alone, err = a.rooms.Alone(k.User, k.Room, k.Membership); err != nil {
			return nil, err
		}
	}
	if alone {
		if err := a.setMembership(c, k.Room, k.User, k.Membership, q.Reason); err != nil {
			return nil, err
		}
	} else {
		r, err := a.seek(c, k)
		if err != nil {
			return nil, err
		}
		k.Room = r
	}
	if k.Membership == matrix.MemberJoin && alone { // else it was done when the answer came
		unlock := a.edit(k.User)
		defer unlock()
		return map[string]any{"room_id": k.Room}, a.carryOver(k.User, k.Room)
	}
	return map[string]any{"room_id": k.Room}, nil
}

// seek waits for what other nodes are asked. A 504 is what clients take for "not yet": Element asks again by itself, and is then told how it ended.
func (a *API) seek(c *call, k room.Seek) (matrix.RoomID, error) {
	ctx, cancel := context.WithTimeout(c.r.Context(), seekLimit)
	defer cancel()
	r, err := a.rooms.Seek(ctx, k)
	switch {
	case errors.Is(err, room.ErrNobodyToAsk):
		return "", notFound("this room is not known here, and none of this node's contacts is known to be in it: ask for an invite")
	case errors.Is(err, room.ErrRefused):
		return "", forbidden("those who were asked know no such room, or do not let you in")
	}
	return r, err
}

// arrived is a user that came into a room by what was asked for, perhaps long after the request.
func (a *API) arrived(user matrix.UserID, r matrix.RoomID) {
	unlock := a.edit(user)
	defer unlock()
	if err := a.carryOver(user, r); err != nil {
		a.log.Warn("a joined room's settings could not be taken over from the room before it")
		a.log.Debug("taking over settings", "err", err)
	}
}

func (a *API) setMembership(c *call, r matrix.RoomID, target matrix.UserID, membership, reason string) error {
	if membership == matrix.MemberInvite {
		if err := a.mayInvite(target); err != nil {
			return err
		}
	}
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
	if given, err := a.rooms.Unseek(c.who.User, r); given || err != nil {
		return empty{}, err // it was asked for, and is not wanted any more
	}
	if err := a.mayLeave(c.who.User, r); err != nil {
		return nil, err
	}
	alone, err := a.rooms.Alone(c.who.User, r, matrix.MemberLeave)
	if err != nil {
		return nil, err
	}
	if !alone {
		_, err := a.seek(c, room.Seek{User: c.who.User, Membership: matrix.MemberLeave, Room: r, Reason: q.Reason})
		return empty{}, err
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
