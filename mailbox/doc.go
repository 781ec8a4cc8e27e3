// SPDX-License-Identifier: Apache-2.0

// Package mailbox is the protocol between a node and a mailbox's store: sizes, wire forms, and the client.
//
// Problem: somebody must keep a message while its reader is away, and must learn nothing by it: not who writes, who
// reads, how much, nor which boxes belong together. So a store keeps single-use boxes of one size under random names,
// lists in public which names were written when (so that no reader asks "is there anything for me?"), and every
// exchange with it looks alike.
//
// An exchange is a connection of its own: [UpSize] bytes up, [DownSize] bytes down, closed; whether it puts, gets,
// reads a digest, fetches the descriptor or does nothing at all. The request is encrypted to the store's key of the
// day, the answer under a key that only this request gives (package crypto/sealed). docs/SPEC.md has the bytes.
//
// Here are [Address], [Descriptor] and [Page] (what a store says of itself and of its boxes, signed), the codec of
// requests and answers, which package mailbox/store uses from the other side, and [Client] for direct mode. The
// package dials nothing itself: a [Dialer] is given.
//
// Invariants: nothing that a store sends makes a client take more memory than DownSize, or panic; no answer is
// believed that is not sealed or signed; two transactions share no circuit.
//
// Data: none on disk. Limit: in direct mode the store sees the times of requests, though not whose they are; through a
// courier ([Session]) it sees when that handed them over.
package mailbox
