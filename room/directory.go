// SPDX-License-Identifier: Apache-2.0

package room

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// The node's own directory: aliases of its server name, and the rooms that its users see listed. Contacts are told of those that they ask for (lookup.go).

// maxAliases of one room, so that a page of it stays a page.
const maxAliases = 100

// AddAlias names a room; a joined user may. ErrAliasInUse, ErrBadEvent (the alias is malformed), ErrNotMember, ErrUnknownRoom.
func (r *Rooms) AddAlias(user matrix.UserID, alias string, room matrix.RoomID) error {
	localpart, ok := strings.CutSuffix(strings.TrimPrefix(alias, "#"), ":"+string(r.server()))
	if !ok || localpart == "" {
		return fmt.Errorf("%w: room alias", ErrBadEvent)
	}
	if _, err := r.newAlias(localpart); err != nil {
		return err
	}
	if _, err := r.audience(user, room); err != nil {
		return err
	}
	if old, err := r.Aliases(room); err != nil {
		return err
	} else if len(old) >= maxAliases {
		return fmt.Errorf("%w: the room has %d aliases", ErrForbidden, len(old))
	}
	return r.kv.Update(func(txn store.Txn) error {
		if _, err := txn.Get(aliasKey(alias)); !isNotFound(err) {
			return errors.Join(err, ErrAliasInUse)
		}
		return errors.Join(txn.Set(aliasKey(alias), []byte(room)), txn.Set(roomAliasKey(room, alias), nil))
	})
}

// RemoveAlias takes a name from its room; who may send m.room.canonical_alias there may. ErrUnknownRoom: no such alias.
func (r *Rooms) RemoveAlias(user matrix.UserID, alias string) error {
	room, err := r.ResolveAlias(alias)
	if err != nil {
		return err
	}
	if err := r.mayPublish(user, room); err != nil {
		return err
	}
	return r.kv.Update(func(txn store.Txn) error {
		return errors.Join(stays(txn, alias, room), txn.Delete(aliasKey(alias)), txn.Delete(roomAliasKey(room, alias)))
	})
}

// MoveAlias gives a name of one room to another, in one step; who may take it from the one, and is in the other, may.
// ErrUnknownRoom: no such alias.
func (r *Rooms) MoveAlias(user matrix.UserID, alias string, to matrix.RoomID) error {
	from, err := r.ResolveAlias(alias)
	if err != nil {
		return err
	}
	if err := r.mayPublish(user, from); err != nil {
		return err
	}
	if _, err := r.audience(user, to); err != nil {
		return err
	}
	return r.kv.Update(func(txn store.Txn) error {
		return errors.Join(stays(txn, alias, from), txn.Set(aliasKey(alias), []byte(to)), txn.Delete(roomAliasKey(from, alias)), txn.Set(roomAliasKey(to, alias), nil))
	})
}

// stays errs if the alias is no more the room's, which was looked up before the transaction.
func stays(txn store.Txn, alias string, room matrix.RoomID) error {
	v, err := txn.Get(aliasKey(alias))
	if isNotFound(err) || err == nil && matrix.RoomID(v) != room {
		return ErrUnknownRoom
	}
	return err
}

// Aliases lists a room's local aliases, sorted.
func (r *Rooms) Aliases(room matrix.RoomID) ([]string, error) {
	out := []string{}
	err := r.view(func(rd snapshot) error {
		prefix := roomAliasPrefix(room)
		return rd.Scan(prefix, nil, func(k, _ []byte) (bool, error) {
			out = append(out, string(k[len(prefix):]))
			return true, nil
		})
	})
	return out, err
}

// mayPublish errs unless user is joined and has the power to send m.room.canonical_alias.
func (r *Rooms) mayPublish(user matrix.UserID, room matrix.RoomID) error {
	return r.MaySend(user, room, matrix.TypeCanonicalAlias, true)
}

func publishedKey(n uint32) []byte { return key(tabPublished, n, 0) }

// Publish puts a room into the directory, or takes it out. ErrNotMember, ErrForbidden, ErrUnknownRoom.
func (r *Rooms) Publish(user matrix.UserID, room matrix.RoomID, on bool) error {
	if err := r.mayPublish(user, room); err != nil {
		return err
	}
	l, err := r.get(room)
	if err != nil {
		return err
	}
	return r.kv.Update(func(txn store.Txn) error {
		if on {
			return txn.Set(publishedKey(l.n), nil)
		}
		return txn.Delete(publishedKey(l.n))
	})
}

// IsPublished tells whether a room is in the directory. ErrUnknownRoom.
func (r *Rooms) IsPublished(room matrix.RoomID) (is bool, err error) {
	err = r.read(room, func(q *reading) error {
		_, err := q.rd.Get(publishedKey(q.n))
		if is = err == nil; isNotFound(err) {
			err = nil
		}
		return err
	})
	return is, err
}

// Listing is a room in the directory.
type Listing struct {
	Room     matrix.RoomID
	Name     string
	Topic    string
	Alias    string // canonical
	Avatar   string
	JoinRule string
	Type     string // of the create event: "" or m.space
	Joined   int
	World    bool // world-readable
	Guests   bool
}

// Directory calls fn with the published rooms that a local user is in, the most members first, until it returns false.
func (r *Rooms) Directory(fn func(Listing) bool) error { return r.directory("", fn) }

// directory is Directory as far as a server is shown it; "": all.
func (r *Rooms) directory(server matrix.ServerName, fn func(Listing) bool) error {
	var all []Listing
	err := r.view(func(rd snapshot) error {
		var numbers []uint32
		if err := rd.Scan([]byte{tabPublished}, nil, func(k, _ []byte) (bool, error) {
			if len(k) != 5 {
				return false, fmt.Errorf("%w: published", errRow)
			}
			numbers = append(numbers, numberFromKey(k))
			return true, nil
		}); err != nil {
			return err
		}
		for _, n := range numbers {
			q, err := r.openNumber(rd, n)
			if err != nil {
				return err
			}
			if denied, err := q.denied(server); err != nil {
				return err
			} else if denied && server != "" {
				continue
			}
			l, ok, err := q.listing()
			if err != nil {
				return err
			}
			if ok {
				all = append(all, l)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortStableFunc(all, func(a, b Listing) int { return b.Joined - a.Joined })
	for _, l := range all {
		if !fn(l) {
			break
		}
	}
	return nil
}

// listing reads a room's entry; ok=false: no local user is in it any more, so nobody here could let others in.
func (q *reading) listing() (l Listing, ok bool, err error) {
	t, err := q.tallyOf()
	if err != nil || len(t.locals) == 0 {
		return l, false, err
	}
	s, err := q.state(q.row.current)
	if err != nil {
		return l, false, err
	}
	l, err = q.describe(s)
	return l, err == nil, err
}

// textIn reads a string of a state event's content; "" if it is not there.
func (q *reading) textIn(s dag.State, typ, name string) (string, error) {
	e, err := q.stateEvent(s, typ, "")
	if e == nil {
		return "", err
	}
	return textOf(shown(e), name), nil
}

func textOf(e *matrix.Event, name string) string {
	var c map[string]json.RawMessage
	var text string
	if json.Unmarshal(e.Content(), &c) != nil || json.Unmarshal(c[name], &text) != nil {
		return ""
	}
	return text
}
