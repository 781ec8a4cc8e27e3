// SPDX-License-Identifier: Apache-2.0

package store

import (
	"sync"
	"time"

	"tarn/mailbox"
)

// Memory is an Engine for tests: quick, in fake time too, and nothing survives it.
type Memory struct {
	unit  time.Duration
	quota int64

	mu      sync.Mutex // guards all below, for the time of one call
	boxes   map[mailbox.Handle]*memoryBox
	buckets map[uint64][]mailbox.Handle
	units   map[uint64]int // boxes per expiry unit
}

type memoryBox struct {
	id     mailbox.BoxID
	data   [mailbox.BoxSize]byte
	bucket uint64
	unit   uint64
}

var _ Engine = (*Memory)(nil)

// NewMemory makes an empty engine that forgets by the unit and holds quota bytes.
func NewMemory(unit time.Duration, quota int64) *Memory {
	return &Memory{
		unit: unit, quota: quota,
		boxes: map[mailbox.Handle]*memoryBox{}, buckets: map[uint64][]mailbox.Handle{}, units: map[uint64]int{},
	}
}

// Put is Engine's.
func (m *Memory) Put(bucket uint64, expires time.Time, boxes []Box, errs []error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	unit := unitOf(expires, m.unit)
	for i, b := range boxes {
		h := b.ID.Handle()
		old := m.boxes[h]
		switch {
		case old != nil && old.id == b.ID && old.data == *b.Data:
			errs[i] = nil
		case old != nil:
			errs[i] = mailbox.ErrExists
		case b.Unpaid:
			errs[i] = mailbox.ErrToken
		case int64(len(m.boxes)+1)*BoxCost > m.quota:
			errs[i] = mailbox.ErrFull
		default:
			errs[i] = nil
			m.boxes[h] = &memoryBox{b.ID, *b.Data, bucket, unit}
			m.buckets[bucket] = append(m.buckets[bucket], h)
			m.units[unit]++
		}
	}
	return nil
}

// Get is Engine's.
func (m *Memory) Get(h mailbox.Handle, box *[mailbox.BoxSize]byte) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.boxes[h]
	if b == nil {
		return false, nil
	}
	*box = b.data
	return true, nil
}

// Handles is Engine's.
func (m *Memory) Handles(from, to uint64, fn func(mailbox.Handle) bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for b := range m.buckets {
		if b < from || b >= to {
			continue
		}
		for _, h := range m.buckets[b] {
			if !fn(h) {
				return nil
			}
		}
	}
	return nil
}

// Last is Engine's.
func (m *Memory) Last() (last uint64, ok bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for b := range m.buckets {
		last, ok = max(last, b), true
	}
	return last, ok, nil
}

// Expiring is Engine's.
func (m *Memory) Expiring(now time.Time) (last uint64, ok bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for u := range m.units {
		if unitOver(u, m.unit, now) {
			ok = true
		}
	}
	if !ok {
		return 0, false, nil
	}
	for _, b := range m.boxes {
		if unitOver(b.unit, m.unit, now) {
			last = max(last, b.bucket)
		}
	}
	return last, true, nil
}

// Expire is Engine's.
func (m *Memory) Expire(now time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for h, b := range m.boxes {
		if unitOver(b.unit, m.unit, now) {
			delete(m.boxes, h)
		}
	}
	for bucket, hs := range m.buckets {
		kept := hs[:0]
		for _, h := range hs {
			if m.boxes[h] != nil {
				kept = append(kept, h)
			}
		}
		if m.buckets[bucket] = kept; len(kept) == 0 {
			delete(m.buckets, bucket)
		}
	}
	for u := range m.units {
		if unitOver(u, m.unit, now) {
			delete(m.units, u)
		}
	}
	return nil
}

// Usage is Engine's.
func (m *Memory) Usage() Usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Usage{Boxes: int64(len(m.boxes)), Bytes: int64(len(m.boxes)) * BoxCost, Quota: m.quota, Units: len(m.units)}
}

// Forget drops every box, as a store would whose disk was lost. For tests.
func (m *Memory) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.boxes)
	clear(m.buckets)
	clear(m.units)
}

// Close is Engine's.
func (m *Memory) Close() error { return nil }
