// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"container/list"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"tarn/mailbox"
)

// Bounds of the digest.
const (
	maxPageHandles = 1 << 20 // in one page, all parts: 8 MiB while it is made. A level-2 page of 4 h: 70 boxes a second
	maxPageCache   = 8 << 20 // bytes of signed parts kept
	highLevel      = 2       // from here on pages take long to make
)

// pages makes, signs and keeps digest pages. A page never changes once it was made, so it is kept as it is sent.
type pages struct {
	engine  Engine
	clock   *bucketClock
	signing ed25519.PrivateKey
	onion   ed25519.PublicKey
	bucket  time.Duration
	ttl     time.Duration

	// One page is made at a time, and one of the higher levels beside it: that bounds memory and work, and who asks for pages
	// of four hours holds up nobody who reads what is new.
	making, makingHigh sync.Mutex

	mu    sync.Mutex                         // guards the cache, never while a page is made
	byKey map[mailbox.PageAddr]*list.Element // Part is 0
	lru   *list.List                         // of *madePage, newest first
	bytes int
}

// madePage is all parts of a page, or the reason why there is none.
type madePage struct {
	addr  mailbox.PageAddr
	parts [][]byte
	size  int
	err   error
}

func newPages(e Engine, c *bucketClock, signing ed25519.PrivateKey, onion ed25519.PublicKey, bucket, ttl time.Duration) *pages {
	return &pages{
		engine: e, clock: c, signing: signing, onion: onion, bucket: bucket, ttl: ttl,
		byKey: map[mailbox.PageAddr]*list.Element{}, lru: list.New(),
	}
}

// part is one signed part, and how many buckets are closed. Its errors: mailbox.ErrRefused, ErrNotYet (with closed),
// ErrGone, ErrTooMany, or a fault of the engine.
func (p *pages) part(a mailbox.PageAddr, now time.Time) (part []byte, closed uint64, err error) {
	from, to, ok := a.Buckets()
	if !ok {
		return nil, 0, mailbox.ErrRefused
	}
	closed, err = p.clock.closed(now)
	switch {
	case err != nil:
		return nil, closed, err
	case p.clock.forgotten(from, p.ttl, now):
		return nil, closed, mailbox.ErrGone
	case to > closed:
		return nil, closed, mailbox.ErrNotYet
	}
	key := a
	key.Part = 0
	page := p.cached(key)
	if page == nil {
		if page, err = p.make(key, from, to); err != nil {
			return nil, closed, err
		}
		// Boxes may have been forgotten while we read; gone was raised before, so the page is not believed.
		if p.clock.forgotten(from, p.ttl, now) {
			return nil, closed, mailbox.ErrGone
		}
		p.keep(page)
	}
	switch {
	case page.err != nil:
		return nil, closed, page.err
	case int(a.Part) >= len(page.parts):
		return nil, closed, mailbox.ErrRefused
	}
	return page.parts[a.Part], closed, nil
}

func (p *pages) cached(key mailbox.PageAddr) *madePage {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.byKey[key]
	if e == nil {
		return nil
	}
	p.lru.MoveToFront(e)
	return e.Value.(*madePage)
}

func (p *pages) make(key mailbox.PageAddr, from, to uint64) (*madePage, error) {
	making := &p.making
	if key.Level >= highLevel {
		making = &p.makingHigh
	}
	making.Lock()
	defer making.Unlock()
	if page := p.cached(key); page != nil { // somebody else made it meanwhile
		return page, nil
	}
	var hs []mailbox.Handle
	tooMany := false
	err := p.engine.Handles(from, to, func(h mailbox.Handle) bool {
		tooMany = len(hs) == maxPageHandles
		if !tooMany {
			hs = append(hs, h)
		}
		return !tooMany
	})
	if err != nil {
		return nil, fmt.Errorf("read a digest: %w", err)
	}
	if tooMany {
		return &madePage{addr: key, size: 64, err: mailbox.ErrTooMany}, nil
	}
	slices.SortFunc(hs, func(a, b mailbox.Handle) int { return bytes.Compare(a[:], b[:]) })
	hs = slices.Compact(hs)
	page := &madePage{addr: key}
	n := max(1, (len(hs)+mailbox.PageHandles-1)/mailbox.PageHandles)
	for i := range n {
		part := mailbox.Page{PageAddr: key, Parts: uint16(n), Handles: hs[:min(len(hs), mailbox.PageHandles)]}
		part.Part = uint16(i)
		hs = hs[len(part.Handles):]
		b := mailbox.SignPage(p.signing, p.onion, p.bucket, part)
		page.parts, page.size = append(page.parts, b), page.size+len(b)+64
	}
	return page, nil
}

// keep puts the page into the cache and drops the ones used longest ago; the newest stays, whatever its size.
func (p *pages) keep(page *madePage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byKey[page.addr] != nil {
		return
	}
	p.byKey[page.addr] = p.lru.PushFront(page)
	p.bytes += page.size
	for p.bytes > maxPageCache && p.lru.Len() > 1 {
		old := p.lru.Remove(p.lru.Back()).(*madePage)
		delete(p.byKey, old.addr)
		p.bytes -= old.size
	}
}

// pageStatus is the status for an error of part; ok is false for a fault.
func pageStatus(err error) (s mailbox.Status, ok bool) {
	if err == nil {
		return mailbox.StatusOK, true
	}
	for _, c := range []struct {
		err error
		s   mailbox.Status
	}{
		{mailbox.ErrRefused, mailbox.StatusRefused}, {mailbox.ErrNotYet, mailbox.StatusNotYet},
		{mailbox.ErrGone, mailbox.StatusGone}, {mailbox.ErrTooMany, mailbox.StatusTooMany},
	} {
		if errors.Is(err, c.err) {
			return c.s, true
		}
	}
	return mailbox.StatusBusy, false
}
