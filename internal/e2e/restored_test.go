// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"io"
	"slices"
	"strings"
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

		bob.restore(&backup)
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

// restore puts a backup in the place of a node's database, as the command does. The node is not started.
func (n *node) restore(backup io.Reader) {
	n.t.Helper()
	n.stop()
	n.kv = store.OpenMemory()
	if err := store.Restore(n.kv, backup); err != nil {
		n.t.Fatal(err)
	}
	if err := replicate.MarkRestored(n.kv); err != nil {
		n.t.Fatal(err)
	}
	n.rebuild()
}

// watched calls after behind every write.
type watched struct {
	store.KV
	after func()
}

func (w *watched) Update(fn func(store.Txn) error) error {
	err := w.KV.Update(fn)
	w.after()
	return err
}

// claimed counts the one-time keys of a device that a node gives until it has none.
func claimed(t *testing.T, n *node, d *device, given map[string]int) (keys int) {
	t.Helper()
	for {
		name, ok := n.claim(d.user, d.id)
		if !ok {
			t.Fatal("a claim failed")
		}
		if name == "" || name[len("signed_curve25519:")] != 'K' {
			return keys
		}
		if given[name]++; given[name] > 1 {
			t.Errorf("%s was given twice", name)
		}
		keys++
	}
}

// TestABatchThatComesAgainAfterARestoreIsNotGivenAgain: a batch of one-time keys was given away after the backup, and comes again after the
// restore: from a row of the inbox that is in the backup, or from a box that the restored node had not acknowledged.
func TestABatchThatComesAgainAfterARestoreIsNotGivenAgain(t *testing.T) {
	for name, inBackup := range map[string]bool{"in the backup's inbox": true, "in a box": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, alice, bob, _, _ := meet(t)
				var backup bytes.Buffer
				given := map[string]int{}
				if inBackup {
					bob.stop()
					disk := bob.kv
					bob.kv = &watched{KV: disk, after: func() {
						const inbox = store.TableContact + 0x8
						found := false
						if err := disk.View(func(r store.Reader) error {
							return r.Scan([]byte{inbox}, nil, func(_, v []byte) (bool, error) {
								found = found || bytes.Contains(v, []byte("signed_curve25519:K"))
								return true, nil
							})
						}); err != nil {
							t.Error(err)
						}
						if found && backup.Len() == 0 {
							if err := store.Backup(disk, &backup); err != nil {
								t.Error(err)
							}
						}
					}}
					bob.rebuild()
					bob.start()
				} else {
					until(t, "quiet", 6*time.Hour, func() bool { return len(alice.pending(bob)) == 0 && len(bob.pending(alice)) == 0 })
					if err := store.Backup(bob.kv, &backup); err != nil {
						t.Fatal(err)
					}
				}
				phone := alice.device(t, 30)
				until(t, "alice's keys", time.Hour, func() bool { return claimed(t, bob, phone, given) > 0 })
				alice.stop() // before it hears that they came
				if backup.Len() == 0 || len(alice.pending(bob)) == 0 {
					t.Fatal("the play is not as it shall be")
				}
				bob.restore(&backup)
				bob.start()
				time.Sleep(10 * time.Minute)
				claimed(t, bob, phone, given)
				alice.rebuild()
				alice.start()
				until(t, "new keys of alice's", 6*time.Hour, func() bool { return claimed(t, bob, phone, given) > 0 })
				for range 40 {
					time.Sleep(time.Minute)
					claimed(t, bob, phone, given)
				}
			})
		})
	}
}

// TestADaysKeysAreADays: a contact gets so many one-time keys of a device a day, also if it says that it was restored from a backup; and on the
// next day it gets more, though nothing else happens.
func TestADaysKeysAreADays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		minutes := replicate.CustomProfile(4*time.Minute, 0.3)
		_, alice, bob, _, _ := meetAt(t, &minutes)
		phone := alice.device(t, 400)
		given := map[string]int{}
		took := 0
		midnight := time.Now().Truncate(24 * time.Hour).Add(24 * time.Hour)
		for time.Until(midnight) > 10*time.Hour {
			took += claimed(t, bob, phone, given)
			time.Sleep(10 * time.Minute)
		}
		if took != 64 {
			t.Fatalf("%d keys on the first day", took)
		}
		var backup bytes.Buffer
		if err := store.Backup(bob.kv, &backup); err != nil {
			t.Fatal(err)
		}
		bob.restore(&backup)
		bob.start()
		until(t, "the end of the recovery", 8*time.Hour, func() bool {
			cs, err := bob.engine.Contacts()
			return err == nil && len(cs) == 1 && !strings.Contains(cs[0].Reason, "waits for new keys")
		})
		for time.Until(midnight) > 30*time.Minute {
			if n := claimed(t, bob, phone, given); n > 0 {
				t.Fatalf("%d keys more on the same day, after a recovery", n)
			}
			time.Sleep(10 * time.Minute)
		}
		until(t, "keys of the next day", 6*time.Hour, func() bool { return claimed(t, bob, phone, given) > 0 })
	})
}

// TestAForgottenContactsKeysAreGone: a client hears that the keys are known no more, and what it sends there waits for nobody.
func TestAForgottenContactsKeysAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, alice, bob, _, since := meet(t)
		phone := alice.device(t, 10)
		until(t, "alice's keys", time.Hour, func() bool { list, _, _ := bob.query(alice.user); return list[phone.id] != nil })
		since = bob.await(since, "nothing", time.Minute, func(syncAnswer) bool { return true })
		if err := bob.engine.Forget(string(alice.user.Homeserver())); err != nil {
			t.Fatal(err)
		}
		bob.await(since, "the change", time.Minute, func(a syncAnswer) bool { return slices.Contains(a.DeviceLists.Changed, alice.user) })
		if list, _, failed := bob.query(alice.user); len(list) > 0 || !failed {
			t.Errorf("keys %v, failed %v", list, failed)
		}
		bob.sendTo(alice.user, "*", "1", object{"body": "for nobody"})
		if items := bob.pending(alice); len(items) != 0 {
			t.Errorf("%d things wait", len(items))
		}
	})
}
