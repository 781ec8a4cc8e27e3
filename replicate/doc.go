// SPDX-License-Identifier: Apache-2.0

// Package replicate carries what is new in a node's rooms to the other nodes and fetches what is new there, so that
// nobody who watches the traffic learns whether there was anything to carry.
//
// Problem: a node that contacts a mailbox when its user speaks tells everybody on the way that, and when, and with
// whom its user speaks. And two nodes are rarely up at the same time.
//
// The package therefore owns the clock. A Poisson process (schedule.go), seeded from outside and deaf to everything
// else, says when a slot comes, of what kind (PUT, GET, DIGEST) and at which store. A moment before each slot the
// engine chooses what the slot carries: a box for a contact (outbox.go), an identical rewrite (inflight.go), a box
// that a digest listed for us (digest.go, fetch.go), the boxes of a first contact (firstcontact.go), or else cover.
// What was fetched lies in a durable inbox until package room has taken it (inbox.go); what is missing is asked for
// (want.go).
//
// Invariants:
//   - The times, kinds and stores of the transactions depend on the seed, the profile and the set of known stores,
//     never on what there is to say. A transaction that is not ready in its slot is not sent late.
//   - A ratchet index is on disk before its box leaves, and no two plaintexts are sealed under one index.
//   - An item leaves the outbox only when every box that carries a part of it was acknowledged by the peer.
//   - A received box is acknowledged only after what was in it is durable here.
//   - Delivery is at least once; room and the record handlers here ignore doubles.
//   - Memory is bounded: at most Window handles a contact, MaxInFlight slots, fixed batches of rows.
//
// Data: rows in the tables 0x50..0x5e of the node's database (rows.go lists them), and the outbox of package store.
//
// Limits: the set of known stores grows when a contact is made, and so do the places that slots go to. A decoy GET is
// drawn by age, but by one fixed distribution: a store that also sees the reader's circuits (a later courier that
// colludes with it) can tell decoys from reads better than by chance. One ratchet epoch a first contact until the KEM
// half exists; a restored backup must make its contacts anew (a new link replaces the old stream).
package replicate
