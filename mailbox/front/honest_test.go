// SPDX-License-Identifier: Apache-2.0

package front_test

import (
	"bytes"
	"crypto/ed25519"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/front"
	"tarn/mailbox/store"
)

// Two descriptors of an honest mailbox never contradict each other, whatever its restarts: who compares proves nothing.
func TestAMailboxMakesOneClaimOfAKindAndDay(t *testing.T) {
	dir := t.TempDir()
	onion := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, 32))
	synctest.Test(t, func(t *testing.T) {
		type about struct {
			kind  mailbox.ClaimKind
			epoch uint32
		}
		claims := map[about][32]byte{}
		days := map[uint32]bool{}
		for life := range 40 {
			s, err := store.New(store.Config{Onion: onion, Dir: dir, Engine: store.NewMemory(store.DefaultExpiryUnit, 1<<30),
				TTL: time.Duration(1+life%3) * 24 * time.Hour}) // which an operator may change
			if err != nil {
				t.Fatal(err)
			}
			keys, err := front.OpenKeys(filepath.Join(dir, "keys"), onion, s.About)
			if err != nil {
				t.Fatal(err)
			}
			for range rand.N(4) + 1 {
				d, err := mailbox.ParseDescriptor(keys.Address(), keys.Descriptor())
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range d.Claims() {
					k := about{c.Kind, c.Epoch}
					if old, ok := claims[k]; ok && old != c.Hash {
						t.Fatalf("two claims of kind %d and day %d", c.Kind, c.Epoch)
					}
					claims[k] = c.Hash
				}
				days[mailbox.Epoch(time.Now())] = true
				time.Sleep(rand.N(15 * time.Hour))
				if err := keys.Rotate(time.Now()); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if len(days) < 10 || len(claims) < len(days)+1 {
			t.Errorf("only %d claims of %d days", len(claims), len(days))
		}
	})
}
