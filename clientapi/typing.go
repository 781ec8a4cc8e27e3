// SPDX-License-Identifier: Apache-2.0

package clientapi

import "time"

// Of a typing notice: the spec gives clients the choice; longer ones would outlive a client that died.
const (
	defaultTyping = 30 * time.Second
	maxTyping     = 2 * time.Minute
)

// typing: PUT /rooms/{roomId}/typing/{userId}. To other nodes it is a clock: it goes to those alone that the operator says (signs.go).
func (a *API) typing(c *call) (any, error) {
	r, err := c.room()
	if err != nil {
		return nil, err
	}
	if err := c.self(); err != nil {
		return nil, err
	}
	var q struct {
		Typing  *bool  `json:"typing"`
		Timeout *int64 `json:"timeout"` // ms
	}
	if err := c.decode(&q); err != nil {
		return nil, err
	}
	if q.Typing == nil {
		return nil, missing("typing")
	}
	if err := a.mustBeJoined(c, r); err != nil {
		return nil, err
	}
	timeout := defaultTyping
	if q.Timeout != nil {
		timeout = time.Duration(min(max(*q.Timeout, 1), maxTyping.Milliseconds())) * time.Millisecond
	}
	return empty{}, a.rooms.SetTyping(c.who.User, r, *q.Typing, timeout)
}
