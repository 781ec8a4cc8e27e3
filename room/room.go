// SPDX-License-Identifier: Apache-2.0

// Package room is the one writer of room data.
//
// Problem: a client's event must be durable before it is answered, be in every reader's order exactly once, reach every
// server that is in the room, and never exist by half, whatever is killed when. Another node's events come late, twice, in
// any order, with holes, or forged, and all nodes must come to the same room. And nobody is online to be asked.
//
// What it does: [Rooms.Send], [Rooms.Create] and [Rooms.SetMembership] write what local users do, [Rooms.Ingest] and
// [Rooms.IngestSnapshot] what other nodes gave; [Rooms.Seek] asks other nodes for rooms that they are in; [Rooms.Sync] and the other readers show it, each event as far as the
// room's history visibility lets the user see it. The rules are package dag's; the events package matrix's.
//
// Invariants:
//   - One lock a room: who writes a room holds it from reading its heads until the transaction is durable. Readers take no lock.
//   - One transaction for everything that a change means: the events, heads, state, membership index, transaction id, the
//     outbox's rows. When a call returns nil it is on the disk; if it fails, or the process is killed, nothing of it is (commit.go).
//   - An event's place in the order (stream position, number within it) never changes, and is given when it becomes visible:
//     pages and /sync show each event once, whatever is written meanwhile.
//   - The cost of a send does not depend on the room's age, nor on anything unread. That of a state event grows with the state.
//   - The network is never touched.
//
// Data: the tables 0x10 to 0x2f of the node's database; schema.go has every row. Typing is in memory only.
//
// Limits, honestly: a room joined from a snapshot takes one state for all that lies before the invite (snapshot.go, "floor"), until a member's node
// tells the true ones (gaps.go). After
// forks /sync (v3) can only send events in an order: a client whose timeline ends with a state event that lost
// the resolution believes it until the state changes again.
package room

import "errors"

// Errors of this package; clientapi gives them their errcodes.
var (
	ErrUnknownRoom  = errors.New("room: not known here")
	ErrUnknownEvent = errors.New("room: no such event, or not visible to this user")
	ErrForbidden    = errors.New("room: not allowed by the room's rules") // wraps the auth rule's words
	ErrNotMember    = errors.New("room: the user is not in the room")
	ErrTooLarge     = errors.New("room: event exceeds 65,536 bytes")
	ErrBadVersion   = errors.New("room: room version is not supported")
	ErrBadEvent     = errors.New("room: event is malformed")
	ErrNoState      = errors.New("room: no such state")
	ErrAliasInUse   = errors.New("room: the alias is taken")
	ErrBadSnapshot  = errors.New("room: snapshot is malformed or not allowed")
	ErrBadPast      = errors.New("room: what was told of a room's past is malformed, or can not be true") // no honest node does
	// ErrLargeRoom: the room's state is more than can be handed to another node in one piece.
	ErrLargeRoom = errors.New("room: too large to be handed over")
)
