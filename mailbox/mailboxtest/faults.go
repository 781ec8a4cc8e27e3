// SPDX-License-Identifier: Apache-2.0

package mailboxtest

import (
	"crypto/rand"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/store"
)

// Fault is a way to misbehave; several may be set at once.
type Fault struct {
	// Of the wire.
	Down        bool          // dials fail at once
	Unreachable bool          // dials hang until their ctx ends
	Delay       time.Duration // dials take this long
	Garbage     bool          // answers are random bytes
	Cut         bool          // connections end in the middle of the answer
	Hang        bool          // no answer comes

	// Of the courier.
	DropShare float64       // this share of the halves is neither forwarded nor answered, 0..1
	Carry     time.Duration // halves reach the stores that much later

	// Of the store. (Not for a mailbox on disk.)
	Busy         bool // writes are refused as busy
	Full         bool // writes are refused as full
	Replace      bool // reads give another box than was written
	Lose         bool // writes are acknowledged and thrown away
	HideHandles  bool // digest pages made from now on are empty
	ExtraHandles bool // digest pages made from now on list a box that nobody wrote
}

// Faults is the present misbehaviour. Safe for concurrent use.
type Faults struct {
	mu  sync.Mutex
	now Fault
}

// Set replaces all faults. Exchanges under way keep the wire's old ones.
func (f *Faults) Set(v Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = v
}

// Clear is Set with no fault.
func (f *Faults) Clear() { f.Set(Fault{}) }

// Get is what was set.
func (f *Faults) Get() Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// wire is the client's end of a connection.
type wire struct {
	net.Conn
	fault Fault
	count func(up, down int)
	spy   *spy
	got   int

	once   sync.Once
	closed chan struct{}
}

// Close is net.Conn's.
func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return w.Conn.Close()
}

// Write counts.
func (w *wire) Write(b []byte) (int, error) {
	w.spy.sent(b)
	n, err := w.Conn.Write(b)
	w.count(n, 0)
	return n, err
}

// Read counts, and spoils what the server sent.
func (w *wire) Read(b []byte) (int, error) {
	if w.fault.Hang {
		<-w.closed
		return 0, net.ErrClosed
	}
	if w.fault.Cut && w.got >= mailbox.DownSize/2 {
		w.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	if w.fault.Cut {
		b = b[:min(len(b), mailbox.DownSize/2-w.got)]
	}
	n, err := w.Conn.Read(b)
	w.spy.came(b[:n])
	if w.fault.Garbage {
		rand.Read(b[:n])
		if w.got == 0 && n > 0 {
			b[0] = byte(mailbox.ClearSealed) // the worst: it looks like an answer
		}
	}
	w.got += n
	w.count(0, n)
	return n, err
}

// faulty is an engine that misbehaves.
type faulty struct {
	store.Engine
	faults *Faults
}

// Close is Engine's. A mailbox that is killed keeps its boxes.
func (e *faulty) Close() error {
	if _, memory := e.Engine.(*store.Memory); memory {
		return nil
	}
	return e.Engine.Close()
}

// Put is Engine's.
func (e *faulty) Put(bucket uint64, expires time.Time, boxes []store.Box, errs []error) error {
	f := e.faults.Get()
	switch {
	case f.Busy:
		return errors.New("a fault that the test asked for")
	case f.Full:
		for i := range errs {
			errs[i] = mailbox.ErrFull
		}
		return nil
	case f.Lose:
		clear(errs)
		return nil
	}
	return e.Engine.Put(bucket, expires, boxes, errs)
}

// Get is Engine's.
func (e *faulty) Get(h mailbox.Handle, box *[mailbox.BoxSize]byte) (bool, error) {
	found, err := e.Engine.Get(h, box)
	if found && e.faults.Get().Replace {
		rand.Read(box[:])
	}
	return found, err
}

// Handles is Engine's.
func (e *faulty) Handles(from, to uint64, fn func(mailbox.Handle) bool) error {
	f := e.faults.Get()
	if f.ExtraHandles {
		var h mailbox.Handle
		rand.Read(h[:])
		if !fn(h) {
			return nil
		}
	}
	if f.HideHandles {
		return nil
	}
	return e.Engine.Handles(from, to, fn)
}
