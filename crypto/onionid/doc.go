// SPDX-License-Identifier: Apache-2.0

// Package onionid makes a server's name prove itself.
//
// A Matrix homeserver is usually believed to be who it says because of DNS, certificates and notaries. A node of Tarn
// has none of these: its server name is its v3 onion address, which spells out an ed25519 public key, so whoever has
// the name has the key. That key lives with tor, and using it to sign events too would tie every event for ever to the
// key that also authenticates the onion service; so events are signed by a second key, and the onion key signs one
// Certificate for it, which travels in-band.
//
// Invariants:
//   - A Name that Parse or FromKey made is exactly 62 bytes, lower case, of version 3, with a right checksum, and its
//     key is a canonically encoded point of prime order (what tor itself demands of an onion key). There is one
//     spelling of each key, so a Name can be compared, and used as a map key, as the string that it is.
//   - A Certificate that ParseCertificate returned carries a verified signature.
//   - No error of this package repeats what it was given: errors go to logs, names do not.
//
// Nothing is kept on disk or in memory by this package.
//
// Limits: only a Name or a Certificate that is itself a log attribute's value is redacted. One inside a slice, a map
// or another struct, or printed by package fmt, shows in full. A certificate has neither an expiry nor a serial
// number: a stolen event-signing key speaks for the name until the peers are told of another by a person.
package onionid
