// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"errors"
	"sync"

	"tarn/store"
)

// ErrDied is what a Mortal answers once its process was killed.
var ErrDied = errors.New("storetest: the process was killed")

// Mortal fails one Update and all later ones, as if the process had been killed at that moment. What was read of it goes
// on being read: whoever reads is dead, too, and only its writes could be noticed.
type Mortal struct {
	store.KV
	Left  int  // Updates until the death; negative: it does not come
	After bool // it dies right after the commit, else before

	mu   sync.Mutex // guards Left and dead, and makes Updates one after another
	dead bool
}

// Update is store.KV's, or ErrDied.
func (m *Mortal) Update(fn func(store.Txn) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.dead:
		return ErrDied
	case m.Left < 0:
		return m.KV.Update(fn)
	case m.Left > 0:
		m.Left--
		return m.KV.Update(fn)
	}
	m.dead = true
	if m.After {
		if err := m.KV.Update(fn); err != nil {
			return err
		}
	}
	return ErrDied
}
