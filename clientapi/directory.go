// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"errors"
	"strings"

	"tarn/matrix"
	"tarn/room"
)

// resolveAlias: GET /directory/room/{roomAlias}.
func (a *API) resolveAlias(c *call) (any, error) {
	r, err := a.findAlias(c.path("alias"))
	if err != nil {
		return nil, err
	}
	return map[string]any{"room_id": r, "servers": []matrix.ServerName{a.cfg.Server}}, nil
}

// findAlias resolves a local alias. Others' are not known: to ask their server would tell it who asks.
func (a *API) findAlias(alias string) (matrix.RoomID, error) {
	name, server, found := strings.Cut(alias, ":")
	if !found || len(name) < 2 || name[0] != '#' || len(alias) > matrix.MaxID {
		return "", invalid("not a room alias")
	}
	unknown := notFound("this alias is not known here")
	if server != string(a.cfg.Server) {
		return "", unknown
	}
	r, err := a.rooms.ResolveAlias(alias)
	if errors.Is(err, room.ErrUnknownRoom) {
		return "", unknown
	}
	return r, err
}
