// SPDX-License-Identifier: Apache-2.0

// Package dag decides what an event does to its room: may it be there, what holds after it, what holds in the room now.
//
// The problem: nodes see a room's events in different orders, days apart, some of them written by people who want to harm
// the room. All honest nodes must come to the same state without ever talking about it. Matrix has an algorithm for that
// (state resolution), whose subtle mistakes lose a room's bans or its owner; no Go library has a right one for room version 12.
//
// [Insert] is the checks on receipt of an event (server-server API, "Checks performed on receipt of a PDU", 4 to 6):
// the event against its own auth events, against the state before it, against the room as it is now. [Resolve] is state
// resolution v2 (room versions 2 to 11) and v2.1 (version 12), written from the spec's text; each step is a file: split,
// authdiff, subgraph, powersort, mainline, iterate. The authorization rules are the Matrix library's (federation/eventauth):
// one rule set on every node, whatever its bugs, for two sets that differ split rooms. Its panics are rejections here.
//
// Invariants:
//   - Pure: no clock, no randomness, no disk, no signatures. The same view and event give the same answer, whatever order maps are walked in.
//   - An event's Status Rejected and the state before and after it depend on its ancestors alone: every node that has them agrees.
//     SoftFailed depends on what was there when it came: nodes may differ, until an event that follows both joins them.
//   - An event is held only if its auth events are, and theirs. A hole is ErrIncomplete, never guessed around.
//   - A head has no accepted child. An event that comes again, or late, never becomes a head again (see [Referencer]).
//
// Limits, honestly: a State is a whole map, copied at each state event (10,000 members: about 1 ms and 1 MB). A member who
// forks the room many times makes each insertion resolve that many states. The server that created a room of version 11 or
// older can sign a second create event; nodes keep the first they saw (version 12 rooms are their create event).
//
// What is held against what: Resolve against the spec's letter, written a second time in the tests (oracle_test.go), in thousands of
// random rooms of both algorithms; that again against gomatrixserverlib, whose six departures from the spec are all known
// (gmsl_test.go); the two problems of MSC4297, as vectors in testdata; what version 12 changed in the rules (v12_test.go).
//
// The data lies with the caller: room implements View over a transaction; dagtest holds one in memory.
package dag
