// SPDX-License-Identifier: Apache-2.0

// Package token makes and checks blind tokens: rights that one gives out and recognises when they come back, without
// knowing to whom it had given which.
//
// Problem: a mailbox must bound who fills its disk, and must not learn who writes. An account, a password or a signed
// permit would tell it at every deposit. So an account draws tokens blind, gives some of them to its contacts, and
// whoever deposits shows one: the mailbox sees that it is one of those it made that day, and which day, nothing else.
//
// A token is a random input and the value of the mailbox's keyed function at it: VOPRF of RFC 9497 in the suite
// ristretto255-SHA512, mode 1 (github.com/cloudflare/circl), 96 bytes. [Key.Evaluate] gives blinded values with a proof
// that the published key made them: a mailbox that used another key for one account, to know its tokens again, is found
// out by [Finalize] and gives nothing.
//
// Everything about a batch follows from one secret of 32 bytes, so that a request can be repeated byte for byte after
// a crash. Inputs come in chunks of [Chunk], each from a seed of its own ([InputSeed]): a chunk is given to a contact
// as its seed and its outputs, 64 bytes a token. A seed says nothing of other chunks, nor of the blinds: who has one and works
// together with the mailbox can not tell in which request its tokens were drawn.
//
// Invariants: no input makes a function here panic or take memory beyond a small multiple of it; elements that are not
// canonical, or the identity, are refused; comparing a token takes the same time whatever it is.
//
// Data: none. Limit: classical security only: a quantum computer that recorded the blinded elements links nothing (the
// blinds hide information-theoretically), but it could compute the key and forge tokens.
package token
