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
// are not; so in an encrypted room people do not read each other if their nodes are no contacts. What package replicate needs to
// know to mend that, by having a contact of both introduce them, is here: it reads, and decides nothing.

// Strangers are the servers that have joined members in rooms with joined local users and are no contacts; encrypted: in encrypted rooms alone. Of
// each it gives the contacts that are joined to such a room too and said that they get the stranger's events from itself (Peer.Sources), so
// are its contacts, sorted: maybe none. What a room's ACL denies is not in it. It reads the keys of one table, and the state of those rooms.
func (r *Rooms) Strangers(encrypted bool) (map[matrix.ServerName][]matrix.ServerName, error) {
	peers := r.peers.Load()
	if peers == nil {
		return nil, nil
	}
	found := map[matrix.ServerName][]matrix.ServerName{}
	err := r.view(func(rd snapshot) error {
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
		for n := range with {
			q, err := r.openNumber(rd, n)
			if errors.Is(err, ErrUnknownRoom) {
				continue
			}
			if err != nil {
				return err
			}
			in, err := q.meeting(encrypted, rooms[n])
			if err != nil {
				return err
			}
			for _, s := range in {
				if _, contact := (*peers)[s]; contact {
					continue
				}
				by := found[s]
				for _, c := range in {
					if peer, contact := (*peers)[c]; contact && peer.Sources[s] && !slices.Contains(by, c) {
						by = append(by, c)
					}
				}
				slices.Sort(by)
				found[s] = by
			}
		}
		return nil
	})
	return found, err
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
			in, err := q.meeting(encrypted, servers)
			if meet = len(in) == len(servers); err != nil || meet {
				return err
			}
		}
		return nil
	})
	return meet, err
}

// meeting are those of some servers that the room's ACL does not deny; none if no local user is joined, or it is not encrypted and has to be.
func (q *reading) meeting(encrypted bool, servers []matrix.ServerName) ([]matrix.ServerName, error) {
	if !q.row.active {
		return nil, nil
	}
	s, err := q.state(q.row.current)
	if err != nil {
		return nil, err
	}
	if _, on := s[matrix.StateKey{Type: matrix.TypeEncryption}]; encrypted && !on {
		return nil, nil
	}
	return q.admitted(s, servers)
}
