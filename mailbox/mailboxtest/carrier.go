// SPDX-License-Identifier: Apache-2.0

package mailboxtest

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"tarn/mailbox"
)

// carriers are what a courier dials: its links, on which it misbehaves as Fault says.
type carriers struct {
	mailbox.Dialer
	faults *Faults
}

// Dial is mailbox.Dialer's.
func (d *carriers) Dial(ctx context.Context, addr, isolation string) (net.Conn, error) {
	c, err := d.Dialer.Dial(ctx, addr, isolation)
	if err != nil {
		return nil, err
	}
	return &carrier{Conn: c, faults: d.faults}, nil
}

// carrier is a courier's end of a link (or of an exchange, which it leaves alone). Each Write is one message.
type carrier struct {
	net.Conn
	faults *Faults

	mu     sync.Mutex // guards the rest
	writes int
	link   bool
}

// Write is net.Conn's.
func (c *carrier) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.writes++
	if c.writes == 1 {
		c.link = len(b) > 1 && b[1] == byte(mailbox.KindLink)
	}
	message := c.link && c.writes > 1
	c.mu.Unlock()
	f := c.faults.Get()
	if !message {
		return c.Conn.Write(b)
	}
	if f.DropShare > 0 && rand.Float64() < f.DropShare {
		return len(b), nil
	}
	if f.Carry > 0 {
		time.Sleep(f.Carry)
	}
	return c.Conn.Write(b)
}
