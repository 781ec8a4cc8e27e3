// SPDX-License-Identifier: Apache-2.0

package mailboxtest_test

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
	"tarn/mailbox/store"
)

func randomBox() (id mailbox.BoxID, box *[mailbox.BoxSize]byte) {
	box = new([mailbox.BoxSize]byte)
	rand.Read(id[:])
	rand.Read(box[:])
	return id, box
}

func TestABoxIsPutListedAndFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mailboxtest.New(t)
		c := m.Client()
		ctx := t.Context()
		id, box := randomBox()
		if err := c.Put(ctx, id, box, nil); !errors.Is(err, mailbox.ErrNoDescriptor) {
			t.Fatalf("put before the descriptor is known: %v", err)
		}
		d, err := c.Descriptor(ctx)
		if err != nil {
			t.Fatal(err)
		}
		put := time.Now()
		if err := c.Put(ctx, id, box, nil); err != nil {
			t.Fatal(err)
		}
		if err := c.Put(ctx, id, box, nil); err != nil {
			t.Fatalf("identical rewrite: %v", err)
		}
		_, other := randomBox()
		if err := c.Put(ctx, id, other, nil); !errors.Is(err, mailbox.ErrExists) {
			t.Fatalf("different rewrite: %v", err)
		}
		got, err := c.Get(ctx, id.Handle())
		if err != nil || *got != *box {
			t.Fatalf("get: %v", err)
		}
		if err := c.Nothing(ctx); err != nil {
			t.Fatal(err)
		}
		for level := range uint8(mailbox.Levels) {
			at := mailbox.PageAt(level, put, d.Bucket)
			from, to, _ := at.Buckets()
			var early mailbox.EarlyError
			if _, err := c.Digest(ctx, at); !errors.As(err, &early) || early.Closed >= to || early.Closed+1 < from {
				t.Fatalf("level %d, an open page: %v, %d buckets are closed", level, err, early.Closed)
			}
			_, end := at.Times(d.Bucket)
			time.Sleep(time.Until(end))
			p, err := c.Digest(ctx, at)
			if err != nil || !slices.Equal(p.Handles, []mailbox.Handle{id.Handle()}) || p.Closed < to {
				t.Fatalf("level %d: %v of %d, %v", level, p.Handles, p.Closed, err)
			}
		}
		for i, x := range m.Transactions() {
			if x.Up != mailbox.UpSize || x.Down != mailbox.DownSize {
				t.Errorf("transaction %d: %d bytes up, %d down", i, x.Up, x.Down)
			}
		}
	})
}

func TestFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mailboxtest.New(t, mailboxtest.WithConfig(func(c *store.Config) { c.Bucket = time.Second }))
		c := m.Client()
		if _, err := c.Descriptor(t.Context()); err != nil {
			t.Fatal(err)
		}
		id, box := randomBox()
		put := time.Now()
		for _, f := range []struct {
			name  string
			fault mailboxtest.Fault
			want  error
		}{
			{"down", mailboxtest.Fault{Down: true}, mailboxtest.ErrDown},
			{"unreachable", mailboxtest.Fault{Unreachable: true}, context.DeadlineExceeded},
			{"delay", mailboxtest.Fault{Delay: time.Hour}, context.DeadlineExceeded},
			{"garbage", mailboxtest.Fault{Garbage: true}, mailbox.ErrBadReply},
			{"cut", mailboxtest.Fault{Cut: true}, nil},
			{"hang", mailboxtest.Fault{Hang: true}, context.DeadlineExceeded},
			{"busy", mailboxtest.Fault{Busy: true}, mailbox.ErrBusy},
			{"full", mailboxtest.Fault{Full: true}, mailbox.ErrFull},
		} {
			m.Faults.Set(f.fault)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			id, box := randomBox()
			err := c.Put(ctx, id, box, nil)
			if err == nil || f.want != nil && !errors.Is(err, f.want) {
				t.Errorf("%s: %v", f.name, err)
			}
			cancel()
		}
		m.Faults.Set(mailboxtest.Fault{Lose: true})
		if err := c.Put(t.Context(), id, box, nil); err != nil {
			t.Fatal(err)
		}
		m.Faults.Clear()
		if got, err := c.Get(t.Context(), id.Handle()); err != nil || *got == *box {
			t.Errorf("a lost box came back, or %v", err)
		}
		if err := c.Put(t.Context(), id, box, nil); err != nil {
			t.Fatal(err)
		}
		m.Faults.Set(mailboxtest.Fault{Replace: true})
		if got, err := c.Get(t.Context(), id.Handle()); err != nil || *got == *box {
			t.Errorf("the box was not replaced, or %v", err)
		}
		m.Faults.Set(mailboxtest.Fault{HideHandles: true, ExtraHandles: true})
		time.Sleep(10 * time.Minute)
		p, err := c.Digest(t.Context(), mailbox.PageAt(1, put, time.Second))
		if err != nil || len(p.Handles) != 1 || p.Handles[0] == id.Handle() {
			t.Errorf("lying digest: %v, %v", p.Handles, err)
		}
		if m.Boxes() == 0 {
			t.Error("no boxes")
		}
		m.Forget()
		if m.Boxes() != 0 {
			t.Error("boxes were not forgotten")
		}
	})
}
