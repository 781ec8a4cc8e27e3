// SPDX-License-Identifier: Apache-2.0

package mailboxtest_test

import (
	"crypto/ed25519"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
	"tarn/onion/oniontest"
)

// The same mailbox as an onion service of the network in memory, with a delay and bytes that the network counts.
func TestMailboxOnANetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := oniontest.New(1)
		t.Cleanup(n.Close)
		n.SetDefault(oniontest.Link{Delay: 300 * time.Millisecond})
		host := n.Host("mailbox")
		m := mailboxtest.New(t, mailboxtest.WithNetwork(func(key ed25519.PrivateKey, port int) (net.Listener, error) {
			return host.Listen(t.Context(), key, port)
		}, n.Host("alice")))
		if err := host.WaitPublished(t.Context(), m.Address().Onion); err != nil {
			t.Fatal(err)
		}
		c := mailbox.NewClient(m.Address(), m.Dialer())
		began := time.Now()
		if _, err := c.Descriptor(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 600*time.Millisecond {
			t.Errorf("took only %v over a slow network", took)
		}
		id, box := randomBox()
		if err := c.Put(t.Context(), id, box, nil); err != nil {
			t.Fatal(err)
		}
		if got, err := c.Get(t.Context(), id.Handle()); err != nil || *got != *box {
			t.Fatal(err)
		}
		for _, x := range m.Transactions() {
			if x.Up != mailbox.UpSize || x.Down != mailbox.DownSize {
				t.Errorf("%+v", x)
			}
		}
	})
}
