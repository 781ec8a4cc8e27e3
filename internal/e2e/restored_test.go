// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/replicate"
	"tarn/store"
)

// TestARestoredNodeGivesNoKeyTwice restores bob's node from a backup, after which keys of both were given and messages sent: no one-time key
// comes again, the two nodes tell each other their keys anew, and messages go on, in both directions.
func TestARestoredNodeGivesNoKeyTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, alice, bob, _, _ := meet(t)
		phone, laptop := alice.device(t, 40), bob.device(t, 40)
		known := func(n *node, d *device) func() bool {
			return func() bool { list, _, _ := n.query(d.user); return list[d.id] != nil }
		}
		until(t, "bob's keys", time.Hour, known(alice, laptop))
		until(t, "alice's keys", time.Hour, known(bob, phone))
		given := map[string]bool{}
		claim := func(n *node, d *device) bool {
			t.Helper()
			name, ok := n.claim(d.user, d.id)
			if !ok {
				t.Fatal("a claim failed")
			}
			if name == "" || name[len("signed_curve25519:")] != 'K' {
				return false
			}
			name = string(d.user) + name
			if given[name] {
				t.Errorf("%s was given twice", name)
			}
			given[name] = true
			return true
		}
		var backup bytes.Buffer
		until(t, "quiet", 6*time.Hour, func() bool { return len(alice.pending(bob)) == 0 && len(bob.pending(alice)) == 0 })
		if err := store.Backup(bob.kv, &backup); err != nil {
			t.Fatal(err)
		}
		heard := func(n *node, since string, want ...string) string {
			t.Helper()
			var got []string
			since = n.await(since, "messages", 6*time.Hour, func(a syncAnswer) bool { got = append(got, a.heard()...); return len(got) >= len(want) })
			if !slices.Equal(got, want) {
				t.Errorf("%s heard %q, not %q", n.name, got, want)
			}
			return since
		}
		bob.sendTo(alice.user, phone.id, "1", object{"body": "before"})
		alice.sendTo(bob.user, laptop.id, "1", object{"body": "before"})
		aliceSince := heard(alice, "", "before")
		heard(bob, "", "before")
		for range 6 {
			claim(alice, laptop)
			claim(bob, laptop)
			claim(bob, phone)
		}

		bob.stop()
		bob.kv = store.OpenMemory()
		if err := store.Restore(bob.kv, &backup); err != nil {
			t.Fatal(err)
		}
		if err := replicate.MarkRestored(bob.kv); err != nil {
			t.Fatal(err)
		}
		bob.rebuild()
		for range 6 { // before anything was agreed on anew
			claim(bob, laptop)
			claim(bob, phone)
		}
		bob.start()
		laptop.upload(laptop.fresh(40))
		until(t, "keys of bob's that are new", 6*time.Hour, func() bool { return claim(alice, laptop) })
		until(t, "keys of alice's that are new", 6*time.Hour, func() bool { return claim(bob, phone) })
		for range 20 {
			claim(alice, laptop)
			claim(bob, laptop)
			claim(bob, phone)
			time.Sleep(time.Minute)
		}
		bob.sendTo(alice.user, phone.id, "2", object{"body": "after"})
		alice.sendTo(bob.user, laptop.id, "2", object{"body": "after"})
		heard(alice, aliceSince, "after")
		// Bob's clients begin anew. What alice's node had no acknowledgement for when his was restored comes again, to a device that never had it.
		var got []string
		bob.await("", "the message", 6*time.Hour, func(a syncAnswer) bool { got = append(got, a.heard()...); return slices.Contains(got, "after") })
		if !slices.Equal(got, []string{"before", "after"}) && !slices.Equal(got, []string{"after"}) {
			t.Errorf("bob heard %q", got)
		}
	})
}
