// SPDX-License-Identifier: Apache-2.0

// Package matrix holds the words of the Matrix protocol that the rest of Tarn speaks: ids, room versions, events, errcodes.
//
// The problem: an event is signed, hashed and named by its exact canonical bytes. Two nodes that read the same bytes in
// two ways have split the room. Reading a PDU into a struct and writing it again loses things (a null state_key, 1.0 for 1),
// and what is lost is where an attacker hides. So an [Event] keeps its wire bytes, is immutable, and comes to be in three
// ways only: [Build] signs one, [Parse] reads one that came from elsewhere and refuses bytes that are not their own
// canonical form, [Load] reads back what one of the two made.
//
// Format, hashes, redaction and signatures are the Matrix library's (maunium.net/go/mautrix/federation/pdu).
// It needs GOEXPERIMENT=jsonv2 until Go 1.27; without it, the build stops at a name that says so.
//
// Invariants:
//   - Parse(v, raw).Raw() equals raw, byte for byte, unless the content hash was wrong; then the event is its redacted form.
//   - Every id, type and state key is at most 255 bytes, an event at most 65,536, prev_events at most 20, auth_events at most 10.
//   - Server names are onions: a sender or member whose server part has not the form of a v3 onion address is refused.
//     That the address is a real one, its certificate shows, without which [Event.Verify] knows no key.
//   - An Event is never changed after it was made; any number of goroutines may read it.
//
// Limits, honestly: signatures are not covered by the event's id, so two nodes can hold the same event with different extra
// signatures. Someone who forwards an event can spoil its content, and the receiver then keeps the redacted form ([Event.Redacted]).
// Room versions below 6 are not spoken.
//
// The package is pure: no clock, no network, no disk; randomness only in [CreateContent].
package matrix
