// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"slices"

	"tarn/mailbox"
)

// copies is how many of the receiver's stores a box may lie in.
const copies = 2

// placesOf orders the receiver's stores for a box by HMAC(place, onion name), the greatest first (rendezvous hashing). The
// first two are the box's own; a third is for when one of these can not be used. Both ends compute it; to all others each box's pair is uniform in the set
// and independent of every other's, so what a courier sees of the targets says nothing about what is sent. One store
// that joins or leaves the set moves only the boxes that it has or had.
func placesOf(set []mailbox.Address, place [32]byte) []mailbox.Address {
	type scored struct {
		score []byte
		a     mailbox.Address
	}
	all := make([]scored, 0, len(set))
	for _, a := range set {
		m := hmac.New(sha256.New, place[:])
		m.Write([]byte(a.Onion))
		all = append(all, scored{m.Sum(nil), a})
	}
	slices.SortFunc(all, func(x, y scored) int { return bytes.Compare(y.score, x.score) })
	out := make([]mailbox.Address, 0, len(all))
	for _, s := range all {
		out = append(out, s.a)
	}
	return out
}
