// SPDX-License-Identifier: Apache-2.0

// Package store is the store's side of a mailbox: it keeps boxes until they expire, and answers requests.
//
// Problem: whoever hosts a mailbox, watches it or takes its disk must learn nothing worth having, and whoever relies
// on it must not lose a box that was acknowledged. So the store knows nothing of who asks (an onion service's clients
// have no address), answers everything in one size and (nearly) one time, lists what it holds for everybody alike,
// hides the order of arrival, and forgets for good: every box is encrypted under a key of its expiry day, which is
// destroyed, and a day lies in a database of its own, which is deleted as a whole ([Days]; Badger's own TTL frees
// neither disk nor secret).
//
// [Server] carries out requests, which package mailbox/front opens for it; [Engine] is where boxes lie: [Days] on disk,
// [Memory] for tests.
//
// Invariants:
//   - A PUT is answered OK after its box is synced to the disk. First write wins, by handle.
//   - A digest page is served only when no box can come into it any more, and never changes afterwards, also over
//     restarts and with a clock that goes backwards: its bucket is closed on disk first (clock.go).
//   - Queues and caches are bounded.
//   - Nothing about a request is logged or counted one by one.
//
// Data, under Config.Dir (mode 0700):
//
//	LOCK            one process only
//	store.json      schema version, and what cannot change later: expiry unit, bucket
//	clock.json      which buckets are closed, and which are gone
//	signing.seed    the key that signs digests, 32 bytes
//	days/N/         a Badger database: the boxes that expire at the end of unit N
//	days/N.key      the key they are encrypted under, 32 bytes; destroyed first when they expire
//	days/N.dead/    what is being deleted
//
// Limits: destroying a key overwrites its file, which a file system that copies on write, or an SSD, may not obey:
// full-disk encryption is still worth having. A clock that leaps ahead by days expires boxes early.
package store
