// SPDX-License-Identifier: Apache-2.0

// Package replicate carries what is new in a node's rooms to the other nodes and fetches what is new there, so that
// nobody who watches the traffic learns whether there was anything to carry.
//
// Problem: a node that contacts a mailbox when its user speaks tells everybody on the way that, and when, and with
// whom its user speaks. And two nodes are rarely up at the same time.
//
// The package therefore owns the clock. A Poisson process (schedule.go), seeded from outside and deaf to everything
// else, says when a frame leaves, for which of the node's two couriers (courier.go), with what delays, and for which set
// of stores (frame.go); and if no courier is known, when a slot comes, of what kind (PUT, GET, DIGEST) and at which store:
// direct mode. A moment before each the engine chooses what it carries (job.go): a box for a contact (outbox.go, entries.go), an
// identical rewrite (inflight.go), a box that a digest listed for us (digest.go, fetch.go), the boxes of a first contact
// (firstcontact.go), or else cover. A job makes one request of a Mailbox, and does not know whether that is a transaction of
// its own or a half of a frame (half.go). Half of the cover are boxes of our own that are read back, which tells what is to
// be thought of each store and courier (health.go). Which of the receiver's stores a box goes to, the box itself says
// (place.go). What was fetched lies in a durable inbox until package room has taken it (inbox.go); what is missing is asked
// for (want.go). What contacts must have of users' keys is compared with what they were told before a slot chooses (keys.go).
//
// Invariants:
//   - The times of frames and transactions, the couriers, and the distribution of their stores depend on the seed, the
//     profile, the set of known mailboxes and whether these answer, never on what there is to say. What is not ready at its
//     time is not sent late.
//   - A ratchet index is on disk before its box leaves, and no two plaintexts are sealed under one index.
//   - An item leaves the outbox only when every box that carries a part of it was acknowledged by the peer.
//   - A received box is acknowledged only after what was in it is durable here.
//   - Delivery is at least once; room and the record handlers here ignore doubles.
//   - Memory is bounded: at most 2·Window handles a contact, MaxInFlight slots, fixed batches of rows.
//
// Data: rows in the tables 0x50..0x6f of the node's database (rows.go lists them), and the outbox of package store.
//
// Limits: the set of known stores grows when a contact is made, and so do the places that slots go to. The wait
// for a PUT grows with the number of different sets of stores that the contacts have. A store that drops less than half a
// percent of what it acknowledged is not noticed. What a restored node had taken in
// since its backup and is no event of a room does not come again (recovery.go).
package replicate
