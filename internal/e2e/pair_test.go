// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
	"tarn/mailbox/store"
	"tarn/replicate"
)

// TestServePair is no test: it gives real clients two nodes that are contacts, alice's and bob's, with a mailbox in memory between
// them, in real time; each is told who is at the other. It prints their URLs and ends with its standard input (test/clients runs it so).
func TestServePair(t *testing.T) {
	if os.Getenv("TARN_PAIR") == "" {
		t.Skip("for test/clients")
	}
	box := mailboxtest.New(t, mailboxtest.WithConfig(func(c *store.Config) { c.Bucket = 100 * time.Millisecond }))
	at := func(c *replicate.Config) {
		c.Profile, c.Stores = replicate.CustomProfile(100*time.Millisecond, 0.3), []mailbox.Address{box.Address()}
		c.Dial = func(a mailbox.Address) replicate.Mailbox { return mailbox.NewClient(a, box.Dialer()) }
	}
	alice, bob := newNodeAt(t, "alice", 1, at), newNodeAt(t, "bob", 2, at)
	befriend(t, alice, bob)
	for n, peer := range map[*node]*node{alice: bob, bob: alice} {
		if err := n.engine.SetSigns(peer.user.Homeserver(), true); err != nil {
			t.Fatal(err)
		}
	}
	a, b := httptest.NewServer(alice.api), httptest.NewServer(bob.api)
	defer a.Close()
	defer b.Close()
	fmt.Printf("PAIR %s %s\n", a.URL, b.URL)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		t.Fatal(err)
	}
}
