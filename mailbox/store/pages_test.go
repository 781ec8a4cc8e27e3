// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"tarn/mailbox"
)

// longReads is an engine in which reading the handles of many buckets takes until it is told.
type longReads struct {
	*Memory
	reading, leave chan struct{}
}

func (e longReads) Handles(from, to uint64, fn func(mailbox.Handle) bool) error {
	if to-from >= mailbox.LevelSpan(highLevel) {
		e.reading <- struct{}{}
		<-e.leave
	}
	return e.Memory.Handles(from, to, fn)
}

// Who asks for pages of hours does not hold up those who read the newest.
func TestPagesOfHoursHoldUpNoNewOnes(t *testing.T) {
	e := longReads{NewMemory(time.Hour, 1<<30), make(chan struct{}), make(chan struct{})}
	_, signing, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	now := time.Now()
	clock, err := openClock("", time.Second, 0, now)
	must(t, err)
	p := newPages(e, clock, signing, signing.Public().(ed25519.PublicKey), time.Second, 24*time.Hour)
	page := func(level uint8) error {
		at := mailbox.PageAt(level, now, time.Second)
		at.Index-- // the newest that is closed
		_, _, err := p.part(at, now)
		return err
	}
	long := make(chan error, 1)
	go func() { long <- page(3) }()
	<-e.reading
	must(t, page(0))
	must(t, page(1))
	close(e.leave)
	must(t, <-long)
}
