// SPDX-License-Identifier: Apache-2.0

package room

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"tarn/matrix"
)

// A room's servers need not be contacts of each other: events are passed on (relay.go). Keys of devices, to-device messages, receipts and files
// are not; so in an encrypted room people do not read each other if their nodes are no contacts. And who hears of a room by one contact alone hears
// nothing more of it, and is heard no more, when that one leaves. What package replicate needs to
// know to mend both, by having a contact of both introduce them, is here: it reads, and decides nothing.

// EnoughContacts is how many contacts in a room that is not encrypted are taken to be enough: one that all have, say, and two more by lot. In large rooms those who stay
// then almost surely hear of each other when it leaves (a random graph in which each draws two is connected with a probability that goes to 1); in small ones it is likely,
// not sure, and nothing is if several leave at once.
const EnoughContacts = 3

// Stranger is a server that has joined members in a room with joined local users, and is no contact.
type Stranger struct {
	// By are the contacts that are joined to such a room too and said that they get the stranger's events from itself (Peer.Sources), so
	// are its contacts, sorted: maybe none.
	By []matrix.ServerName
	// Thin are the rooms of the two if all of them are such as have fewer than EnoughContacts, and so need not all of their strangers.
	Thin []matrix.RoomID
}

// Strangers are those whom the node is to get to know: all of the encrypted rooms, or of all rooms; and those of the thin rooms, with how many contacts each of
// these lacks. What a room's ACL denies is not in it. It reads the keys of one table, and the state of those rooms.
func (r *Rooms) Strangers(all bool) (found map[matrix.ServerName]*Stranger, lack map[matrix.RoomID]int, err error) {
	peers := r.peers.Load()
	if peers == nil {
		return nil, nil, nil
	}
	found, lack = map[matrix.ServerName]*Stranger{}, map[matrix.RoomID]int{}
	err = r.view(func(rd snapshot) error {
		rooms, with := map[uint32][]matrix.ServerName{}, map[uint32]bool{}
		if err := rd.Scan([]byte{tabServer}, nil, func(k, _ []byte) (bool, error) {
			if len(k) < 1+1+4 {
				return false, fmt.Errorf("%w: server", errRow)
			}
			server, n := matrix.ServerName(k[1:len(k)-5]), numberFromKey(k)
			if server == r.server() {
				return true, nil
			}
			rooms[n] = append(rooms[n], server)
			if _, contact := (*peers)[server]; !contact {
				with[n] = true
			}
			return true, nil
		}); err != nil {
			return err
		}
		wanted := map[matrix.ServerName]bool{} // whatever is thin
		for n := range with {
			q, err := r.openNumber(rd, n)
			if errors.Is(err, ErrUnknownRoom) {
				continue
			}
			if err != nil {
				return err
			}
			in, encrypted, err := q.meeting(rooms[n])
			if err != nil {
				return err
			}
			contacts := slices.DeleteFunc(slices.Clone(in), func(s matrix.ServerName) bool { _, contact := (*peers)[s]; return !contact })
			thin := !all && !encrypted
			if thin && len(contacts) >= EnoughContacts {
				continue
			}
			if thin {
				lack[q.row.id] = EnoughContacts - len(contacts)
			}
			for _, s := range in {
				if slices.Contains(contacts, s) {
					continue
				}
				x := found[s]
				if x == nil {
					x = &Stranger{}
					found[s] = x
				}
				if !thin {
					wanted[s] = true
				} else {
					x.Thin = append(x.Thin, q.row.id)
				}
				for _, c := range contacts {
					if (*peers)[c].Sources[s] && !slices.Contains(x.By, c) {
						x.By = append(x.By, c)
					}
				}
				slices.Sort(x.By)
			}
		}
		for s := range wanted {
			found[s].Thin = nil
		}
		return nil
	})
	return found, lack, err
}

// Companions are the servers that have anything to do with us: with joined or invited members in a room with joined local users, or a local user was
// invited by a user of theirs, or knocked there.
func (r *Rooms) Companions() (map[matrix.ServerName]bool, error) {
	out := map[matrix.ServerName]bool{}
	err := r.view(func(rd snapshot) error {
		active := map[uint32]bool{}
		for _, table := range []byte{tabServer, tabGuest} {
			if err := rd.Scan([]byte{table}, nil, func(k, _ []byte) (bool, error) {
				if len(k) < 1+1+4 {
					return false, fmt.Errorf("%w: server", errRow)
				}
				n := numberFromKey(k)
				if _, known := active[n]; !known {
					q, err := r.openNumber(rd, n)
					if err != nil && !errors.Is(err, ErrUnknownRoom) {
						return false, err
					}
					active[n] = err == nil && q.row.active
				}
				if active[n] {
					out[matrix.ServerName(k[1:len(k)-5])] = true
				}
				return true, nil
			}); err != nil {
				return err
			}
		}
		return r.courting(rd, out)
	})
	return out, err
}

// courting adds the servers that local users are invited by, or knocked at.
func (r *Rooms) courting(rd snapshot, out map[matrix.ServerName]bool) error {
	return rd.Scan([]byte{tabUser}, nil, func(k, v []byte) (bool, error) {
		if len(k) < 1+1+4 {
			return false, fmt.Errorf("%w: user", errRow)
		}
		row, err := decodeUser(v)
		if err != nil || row.membership != matrix.MemberInvite && row.membership != matrix.MemberKnock {
			return err == nil, err
		}
		q, err := r.openNumber(rd, numberFromKey(k))
		if err != nil {
			if errors.Is(err, ErrUnknownRoom) {
				return true, nil
			}
			return false, err
		}
		e, err := q.held(row.event)
		if err != nil {
			return false, err
		}
		if e != nil {
			out[e.ev.Server()] = true
		}
		if row.membership == matrix.MemberKnock {
			asked, err := q.strippedRow(matrix.UserID(k[1 : len(k)-5]))
			if err != nil {
				return false, err
			}
			out[asked.By] = true
		}
		return true, nil
	})
}

// Meet tells whether there is a room in which a local user and members of all these servers are joined, and none of them is denied by its
// ACL; encrypted: an encrypted one.
func (r *Rooms) Meet(encrypted bool, servers ...matrix.ServerName) (bool, error) {
	meet := false
	err := r.view(func(rd snapshot) error {
		rooms := map[uint32]int{}
		for _, s := range servers {
			if err := rd.Scan(serverPrefix(s), nil, func(k, _ []byte) (bool, error) {
				rooms[numberFromKey(k)]++
				return true, nil
			}); err != nil {
				return err
			}
		}
		maps.DeleteFunc(rooms, func(_ uint32, n int) bool { return n < len(servers) })
		for n := range rooms {
			q, err := r.openNumber(rd, n)
			if errors.Is(err, ErrUnknownRoom) {
				continue
			}
			if err != nil {
				return err
			}
			in, on, err := q.meeting(servers)
			if meet = len(in) == len(servers) && (on || !encrypted); err != nil || meet {
				return err
			}
		}
		return nil
	})
	return meet, err
}

// meeting are those of some servers that the room's ACL does not deny, none if no local user is joined; and whether the room is encrypted.
func (q *reading) meeting(servers []matrix.ServerName) (in []matrix.ServerName, encrypted bool, err error) {
	if !q.row.active {
		return nil, false, nil
	}
	s, err := q.state(q.row.current)
	if err != nil {
		return nil, false, err
	}
	_, encrypted = s[matrix.StateKey{Type: matrix.TypeEncryption}]
	in, err = q.admitted(s, servers)
	return in, encrypted, err
}
