// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"context"
	"errors"
	"strings"

	"tarn/matrix"
	"tarn/room"
)

// resolveAlias: GET /directory/room/{roomAlias}. Another node is asked for its aliases only by a user of this one.
func (a *API) resolveAlias(c *call) (any, error) {
	r, servers, err := a.aliasOf(c, c.path("alias"))
	if err != nil {
		return nil, err
	}
	return map[string]any{"room_id": r, "servers": servers}, nil
}

// aliasOf resolves any alias, with servers that may be asked for the room.
func (a *API) aliasOf(c *call, alias string) (matrix.RoomID, []matrix.ServerName, error) {
	r, err := a.findAlias(alias)
	if err == nil || !a.ofAnother(alias) || c.who.User == "" {
		return r, []matrix.ServerName{a.cfg.Server}, err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), seekLimit)
	defer cancel()
	r, servers, err := a.rooms.AliasOf(ctx, alias)
	if errors.Is(err, room.ErrRefused) || errors.Is(err, room.ErrNobodyToAsk) {
		err = notFound("this alias is not known here, nor to those who can be asked")
	}
	return r, servers, err
}

// findAlias resolves a local alias.
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

// ofAnother tells whether an alias is of another node.
func (a *API) ofAnother(alias string) bool {
	_, server, found := strings.Cut(alias, ":")
	return found && len(alias) <= matrix.MaxID && server != string(a.cfg.Server)
}
