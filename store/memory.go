// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"sync"
)

// Memory is a KV without a disk, for tests: ordered, fast, no goroutines, no real time, so it works in a synctest
// bubble. It keeps the contract of KV except that nothing survives Close.
type Memory struct {
	writer sync.Mutex // held by the one running Update

	mu    sync.Mutex // guards what follows, for moments
	state *rows      // replaced, never changed: readers keep the one they began with
	gate  gate
}

var _ KV = (*Memory)(nil)

// OpenMemory makes an empty store.
func OpenMemory() KV { return &Memory{state: newRows()} }

// View runs fn on the rows as they are now.
func (m *Memory) View(fn func(Reader) error) error {
	if err := m.gate.enter(); err != nil {
		return err
	}
	defer m.gate.leave()
	m.mu.Lock()
	t := m.state
	m.mu.Unlock()
	return fn(&memoryTxn{t: t})
}

// Update runs fn and puts its rows in place.
func (m *Memory) Update(fn func(Txn) error) error {
	if err := m.gate.enter(); err != nil {
		return err
	}
	defer m.gate.leave()
	m.writer.Lock()
	defer m.writer.Unlock()
	m.mu.Lock()
	tx := &memoryTxn{t: m.state.Clone(), writes: true}
	m.mu.Unlock()
	if err := fn(tx); err != nil {
		return err
	}
	for r := range tx.mine {
		if r.dead {
			tx.t.Delete(r)
		}
	}
	m.mu.Lock()
	m.state = tx.t
	m.mu.Unlock()
	return nil
}

// Run does nothing until ctx ends; it is there to stand in for Badger's.
func (m *Memory) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// Close waits for running transactions.
func (m *Memory) Close() error { return m.gate.close() }

// memoryTxn is both Reader and Txn.
type memoryTxn struct {
	t      *rows
	writes bool
	changes
}

func (x *memoryTxn) Get(key []byte) ([]byte, error) {
	r, ok := x.t.Get(&row{key: key})
	if !ok || r.dead {
		return nil, ErrNotFound
	}
	return append([]byte{}, r.value...), nil
}

// snapshot is what a scan walks over: fn may write meanwhile.
func (x *memoryTxn) snapshot() *rows {
	if x.writes {
		return x.t.Clone()
	}
	return x.t
}

func (x *memoryTxn) Scan(prefix, from []byte, fn func(k, v []byte) (bool, error)) (err error) {
	ascend(x.snapshot(), prefix, from, visit(fn, &err))
	return err
}

func (x *memoryTxn) ScanBack(prefix, from []byte, fn func(k, v []byte) (bool, error)) (err error) {
	descend(x.snapshot(), prefix, from, visit(fn, &err))
	return err
}

// visit makes fn skip dead rows and keeps its error in err.
func visit(fn func(k, v []byte) (bool, error), err *error) func(*row) bool {
	return func(r *row) bool {
		if r.dead {
			return true
		}
		var more bool
		more, *err = fn(r.key, r.value)
		return more && *err == nil
	}
}

func (x *memoryTxn) Set(key, value []byte) error { return x.put(x.t, key, value, false) }
func (x *memoryTxn) Delete(key []byte) error     { return x.put(x.t, key, nil, true) }

// gate counts running transactions so that Close can wait for them.
type gate struct {
	mu     sync.Mutex
	active int
	closed bool
	idle   chan struct{} // made by close, closed by the last to leave
}

func (g *gate) enter() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return ErrClosed
	}
	g.active++
	return nil
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.active--; g.active == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// close lets no one in any more and waits until all have left; a second call gets ErrClosed.
func (g *gate) close() error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return ErrClosed
	}
	g.closed = true
	var idle chan struct{}
	if g.active > 0 {
		idle = make(chan struct{})
		g.idle = idle
	}
	g.mu.Unlock()
	if idle != nil {
		<-idle
	}
	return nil
}
