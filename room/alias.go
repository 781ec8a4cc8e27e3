// SPDX-License-Identifier: Apache-2.0

package room

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"tarn/matrix"
)

// newAlias is the local alias with the localpart, if it is well-formed and free (appendices, "Room Aliases").
func (r *Rooms) newAlias(localpart string) (string, error) {
	alias := "#" + localpart + ":" + string(r.server())
	if len(alias) > matrix.MaxID || strings.ContainsAny(localpart, ":\x00 ") || !utf8.ValidString(localpart) {
		return "", fmt.Errorf("%w: room alias", ErrBadEvent)
	}
	_, err := r.ResolveAlias(alias)
	switch {
	case err == nil:
		return "", ErrAliasInUse
	case err != ErrUnknownRoom:
		return "", err
	}
	return alias, nil
}

// ResolveAlias of a local alias ("#x:server"). ErrUnknownRoom.
func (r *Rooms) ResolveAlias(alias string) (matrix.RoomID, error) {
	if len(alias) > matrix.MaxID {
		return "", ErrUnknownRoom
	}
	var room matrix.RoomID
	err := r.view(func(rd snapshot) error {
		v, err := rd.Get(aliasKey(alias))
		if isNotFound(err) {
			return ErrUnknownRoom
		}
		room = matrix.RoomID(v)
		return err
	})
	return room, err
}
