// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"errors"

	"tarn/account"
	"tarn/matrix"
	"tarn/room"
)

// Reports (C-S API, "Reporting content"). They are kept for the node's owner, and go nowhere else.

type reportRequest struct {
	Reason *string `json:"reason"`
	Score  *int64  `json:"score"`
}

func (a *API) report(c *call, r account.Report) (any, error) {
	var q reportRequest
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Reason != nil {
		r.Reason = *q.Reason
	}
	if q.Score != nil {
		if *q.Score < -100 || *q.Score > 0 {
			return nil, invalid("score must be -100 to 0")
		}
		r.Score = *q.Score
	}
	r.By = c.who.User
	return empty{}, a.accounts.AddReport(r)
}

// reportEvent: POST /rooms/{roomId}/report/{eventId}. "404: the event was not found or you are not joined to the room".
func (a *API) reportEvent(c *call) (any, error) {
	r, id, err := c.roomEvent()
	if err != nil {
		return nil, err
	}
	if err := a.mustBeJoined(c, r); err != nil {
		return nil, hidden(err)
	}
	if _, err := a.rooms.Event(c.who.User, r, id); err != nil {
		return nil, err
	}
	return a.report(c, account.Report{Room: r, Event: id})
}

// reportRoom: POST /rooms/{roomId}/report. One need not be in it, but it must be known here.
func (a *API) reportRoom(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	if _, err := a.rooms.Version(r); errors.Is(err, room.ErrUnknownRoom) {
		return nil, notFound("there is no such room")
	} else if err != nil {
		return nil, err
	}
	return a.report(c, account.Report{Room: r})
}

// reportUser: POST /users/{userId}/report. To who does not exist the answer is the same: "to hide who is here".
func (a *API) reportUser(c *call) (any, error) {
	u, err := userID(c.path("user"))
	if err != nil {
		return nil, err
	}
	return a.report(c, account.Report{User: matrix.UserID(u)})
}
