// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"math"
	"slices"
	"testing"

	"tarn/crypto/onionid"
	"tarn/mailbox"
)

func placeStores(n int) (out []mailbox.Address) {
	for i := range n {
		key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{byte(i + 1)}, 32))
		out = append(out, mailbox.Address{Onion: onionid.FromKey(key.Public().(ed25519.PublicKey))})
	}
	return out
}

func TestPlacesAreUniformAndIndependentOfTheOrderOfTheSet(t *testing.T) {
	set := placeStores(3)
	count := map[mailbox.Address]int{}
	const n = 9000
	for i := range n {
		var place [32]byte
		binary.BigEndian.PutUint32(place[:], uint32(i))
		order := placesOf(set, place)
		if len(order) != 3 {
			t.Fatalf("%d places", len(order))
		}
		other := placesOf([]mailbox.Address{set[2], set[0], set[1]}, place)
		if !slices.Equal(order, other) {
			t.Fatal("the order of the set counts")
		}
		// Without one store, the others keep their order: only its boxes move.
		without := placesOf(set[1:], place)
		if !slices.Equal(without, slices.DeleteFunc(slices.Clone(order), func(a mailbox.Address) bool { return a == set[0] })) {
			t.Fatal("boxes move though their store stays")
		}
		count[order[0]]++
	}
	for a, c := range count {
		if math.Abs(float64(c)-n/3) > 4*math.Sqrt(n*2/9) {
			t.Errorf("%v is first %d times of %d", a.Onion[:6], c, n)
		}
	}
}

func TestABoxPassesOverStoresThatAreLeftOrOutOfReach(t *testing.T) {
	set := placeStores(3)
	place := [32]byte{7}
	order := placesOf(set, place)
	depots := map[mailbox.Address]*depot{}
	var all []*depot
	for _, a := range set {
		depots[a] = &depot{address: a}
		all = append(all, depots[a])
	}
	c := newContact("x", contactRow{stores: set})
	aim := func(w *where, b *box) mailbox.Address {
		b.place = place
		w.left = func(a mailbox.Address) bool { return !depots[a].usable() }
		if d := w.aim(c, b); d != nil {
			return d.address
		}
		return mailbox.Address{}
	}
	expect := func(what string, got, want mailbox.Address) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %v, the order is %v", what, got, order)
		}
	}
	w := &where{places: all}
	expect("new", aim(w, &box{}), order[0])
	expect("second copy", aim(w, &box{attempts: 1}), order[1])
	expect("second copy of one whose first went to the other", aim(w, &box{attempts: 1, last: order[1]}), order[0])
	expect("third copy of it", aim(w, &box{attempts: 2, last: order[0]}), order[1])
	expect("one failure", aim(w, &box{failures: 1}), order[0])
	expect("two failures", aim(w, &box{failures: 2}), order[1])
	near := &where{places: []*depot{depots[order[1]], depots[order[2]]}}
	expect("the first is out of reach", aim(near, &box{}), order[1])
	depots[order[1]].health.state = storeDead
	expect("the second is left", aim(w, &box{attempts: 1}), order[2])
	expect("one is out of reach, one left", aim(near, &box{}), order[2])
	direct := &where{places: []*depot{depots[order[2]]}, direct: true}
	expect("directly, the third of three of which one is left", aim(direct, &box{}), order[2])
	depots[order[1]].health.state = storeGood
	expect("directly, the third of three", aim(direct, &box{}), mailbox.Address{})
	for _, d := range depots {
		d.health.state = storeDead
	}
	expect("all are left", aim(w, &box{}), order[0])
}
