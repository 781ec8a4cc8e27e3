// SPDX-License-Identifier: Apache-2.0

// Package ratchet gives two nodes names and keys for the boxes between them, that nobody else can derive and that a
// later thief of their disks can not derive any more.
//
// Two nodes leave boxes for each other in a store that neither trusts. The store must not see which boxes belong
// together, boxes get lost, doubled and out of order, and each end may die at any moment. So the two ends of a stream
// (one direction) walk along one chain of keys, one step a box:
//
//	k_0 = HMAC(root, "tarn/1 ratchet initiator" or "tarn/1 ratchet responder" ‖ epoch)
//	k_{i+1} = HMAC(k_i, "tarn/1 ratchet next")
//	s_i = HMAC(k_i, "tarn/1 ratchet slot")
//	id_i = HMAC(s_i, "tarn/1 ratchet id")[:16], key_i = HMAC(s_i, "tarn/1 ratchet key")
//	place_i = HMAC(s_i, "tarn/1 ratchet place")
//
// HMAC is HMAC-SHA256, epoch 4 bytes big-endian; the label says who sends. id_i names the box, key_i seals it. A sender
// keeps k_i of the next box alone. A receiver keeps k_i of the index after the highest that it opened, and s_i of
// those below that it has not opened yet: at most Window of them.
//
// Invariants:
//   - An index, so a key, is used for one box only, PROVIDED that the state Next returns is on disk before the box
//     leaves. Who restores a backup MUST begin a new epoch with a new root (Offer, AnswerOffer).
//   - After Done(i) neither key_i nor anything it derives from is in the Receiver: forward secrecy. (The Root derives
//     everything; forget it once both halves are made.)
//   - Any order, loss or repetition of boxes leaves the two ends in step; a box further ahead than Window is not found
//     until what lies before it is opened, or given up (Skip).
//   - A state is read back to exactly what was written, or refused with ErrState.
//
// A chain is symmetric: who steals a state can follow it. So every EpochBoxes boxes or EpochLife the two ends of a Pair
// turn to a new root, into which goes a secret from a hybrid KEM (X25519 with ML-KEM-768, as in package sealed):
//
//	root' = HKDF(carry ‖ ss, SHA-256("tarn/1 ratchet turn\0" ‖ epoch ‖ who offers ‖ public key ‖ ciphertext), "tarn/1 ratchet root")
//	carry = HMAC(root, "tarn/1 ratchet carry")
//
// carry can not be turned back into the chains of its own epoch. The KEM's private key is made when it is offered and
// destroyed when it is answered. So a thief who only listens reads the epoch that he stole, and the next one if the
// theft fell between its offer and its first box; none after. One who also writes in the victim's name is not kept out
// by any ratchet.
//
// States are the caller's to keep on disk (package replicate does, in the node's store). Nothing here is safe for
// concurrent use. A Sender, Receiver or Slot may be copied: the copy is then independent.
//
// Limit: Go can not promise that a key which is no longer referenced is gone from memory at once.
package ratchet
