// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox/mailboxtest"
	mailboxstore "tarn/mailbox/store"
)

// tokenBox is a real mailbox that wants tokens, of which an account may draw few, so that the test is quick.
func tokenBox(t *testing.T, edit ...func(*mailboxstore.Config)) *mailboxtest.Mailbox {
	return mailboxtest.New(t, mailboxtest.WithTokens(), mailboxtest.WithConfig(func(c *mailboxstore.Config) {
		c.Cap, c.Bucket = 240, time.Second
		for _, f := range edit {
			f(c)
		}
	}))
}

func walletNode(w *world, n byte, p Profile, own ...*mailboxtest.Mailbox) *node {
	nd := w.node(n, p)
	nd.own = nil
	for _, b := range own {
		nd.own = append(nd.own, b.Address())
	}
	return nd
}

func TestTwoNodesTalkAtAMailboxThatWantsTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := tokenBox(t)
		w := newWorld(t, 1)
		a, b := walletNode(w, 1, fast(), box), walletNode(w, 2, fast(), box)
		defer w.stopAll()
		startReal(t, a, box)
		startReal(t, b, box)
		w.friends(a, b)
		talk(t, w, a, b, 20, 20*time.Minute)
		talk(t, w, b, a, 20, 20*time.Minute)
		quiet(w, a, b, time.Hour)
	})
}

// Each has a mailbox of its own, which the other can write to only with tokens that it is given: the first ones with the
// link, the others in the stream.
func TestTwoNodesTalkAtMailboxesThatWantTokens(t *testing.T) {
	measures(t)
	synctest.Test(t, func(t *testing.T) {
		one, two := tokenBox(t), tokenBox(t)
		w := newWorld(t, 1)
		a, b := walletNode(w, 1, fast(), one), walletNode(w, 2, fast(), two)
		defer w.stopAll()
		startReal(t, a, one, two)
		startReal(t, b, one, two)
		w.friends(a, b)
		talk(t, w, a, b, 20, 20*time.Minute)
		talk(t, w, b, a, 20, 20*time.Minute)
		quiet(w, a, b, time.Hour)
		// The next day, after a restart, at a slower pace.
		slow := CustomProfile(3*time.Minute, 0.3)
		for _, n := range []*node{a, b} {
			if err := n.engine.SetProfile(slow); err != nil {
				t.Fatal(err)
			}
			n.profile = slow
		}
		time.Sleep(24 * time.Hour)
		a.stop()
		startReal(t, a, one, two)
		talk(t, w, b, a, 3, 8*time.Hour)
		talk(t, w, a, b, 3, 8*time.Hour)
	})
}
