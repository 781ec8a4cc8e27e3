// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/store"
)

// beginDigest starts to follow a store's digest. At a new store the place where it starts is durable before anything
// else is done there: what is written from then on is found, also after a crash.
func (e *Engine) beginDigest(st *depot, now time.Time) error {
	f := &st.follow
	if !st.own || f.begun {
		return nil
	}
	d := st.descriptor
	closed := mailbox.BucketAt(now, d.bucket)
	f.begin(closed, d)
	if f.saved > 0 {
		return nil
	}
	// Somebody may know this store longer than we can reach it.
	since := now
	for _, c := range e.contacts {
		since = earlier(since, c.created)
	}
	for _, in := range e.invites {
		since = earlier(since, in.created)
	}
	for _, a := range e.accepts {
		since = earlier(since, a.created)
	}
	if since.Before(now) {
		f.head = max(mailbox.BucketAt(since.Add(-2*time.Minute-maxSlack), d.bucket), closed-min(closed, uint64(d.ttl/d.bucket)))
	}
	err := e.kv.Update(func(txn store.Txn) error {
		return txn.Set(store.Key(tableDigest, string(st.address.Onion)), binary.BigEndian.AppendUint64(nil, f.head))
	})
	if err != nil {
		f.begun = false
		return err
	}
	f.saved = f.head
	return nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// chooseDigest reads the next page of one of our stores' digests.
func (e *Engine) chooseDigest(st *depot, now time.Time) (job, bool) {
	if !st.own {
		return job{}, false
	}
	f := &st.follow
	bucket := st.descriptor.bucket
	if e.mode == Direct {
		f.advance(mailbox.BucketAt(now.Add(-f.slack), bucket), mailbox.BucketAt(now, bucket))
	}
	p, ok := f.next(st.decoys.perBucket)
	if !ok {
		return job{}, false
	}
	from, to, _ := p.Buckets()
	_, end := p.Times(bucket)
	var page mailbox.Page
	var asked, answered time.Time
	return job{
		do: func(ctx context.Context, m Mailbox) error {
			var err error
			asked = time.Now()
			page, err = m.Digest(ctx, p)
			answered = time.Now()
			return err
		},
		done: func(err error) {
			var early mailbox.EarlyError
			errors.As(err, &early)
			defer func() { f.slack = mailbox.Slack(f.slack, bucket, max(page.Closed, early.Closed), asked, answered) }()
			switch {
			case err == nil:
				if p.Level == 0 {
					f.came(bucket)
				}
				if err := e.readPage(st, page, bucket); err != nil {
					e.warn("keeping a digest page", err)
					f.settle(span{from, to}, false)
				}
			case errors.Is(err, mailbox.ErrGone):
				f.expired(span{from, to}, f.oldest(mailbox.BucketAt(now, bucket)))
			default:
				if errors.Is(err, mailbox.ErrTooMany) && p.Level > 0 {
					f.crowded = p.Level
				}
				if errors.Is(err, mailbox.ErrNotYet) {
					f.notYet(now.Sub(end), bucket)
				}
				f.settle(span{from, to}, false)
			}
		},
	}, true
}

// readPage looks for boxes of ours in a page. The matches and, once the page was read to its last part, the cursor
// behind it are durable in one Update; a crash before reads the page again.
func (e *Engine) readPage(st *depot, page mailbox.Page, bucket time.Duration) error {
	from, to, ok := page.Buckets()
	if !ok {
		return nil
	}
	st.heard.hearPage(page)
	f := &st.follow
	begin, end := page.Times(bucket)
	begin, end = begin.Add(f.slack), end.Add(f.slack) // by our clock
	var found []*todo
	for _, h := range page.Handles {
		delete(st.unlisted, h)
		r, ok := e.expected[h]
		if !ok || st.todo[h] != nil {
			continue
		}
		if r.invite != nil && begin.After(r.invite.expiry) {
			continue // answered after the link expired
		}
		t := &todo{handle: h, ref: r, listed: begin, span: end.Sub(begin)}
		rand.Read(t.row[:])
		found = append(found, t)
	}
	f.settle(span{from, to}, true)
	if page.Part+1 < page.Parts {
		next := page.PageAddr
		next.Part++
		f.pending = append(f.pending, span{from, to})
		f.open = append(f.open, next)
	}
	if len(found) > 0 {
		err := e.kv.Update(func(txn store.Txn) error {
			for _, t := range found {
				if t.loop != nil {
					continue // of no use after a restart
				}
				if err := txn.Set(t.key(st), t.marshal()); err != nil {
					return err
				}
			}
			return txn.Set(store.Key(tableDigest, string(st.address.Onion)), binary.BigEndian.AppendUint64(nil, f.cursor()))
		})
		if err != nil {
			return err
		}
		f.saved = f.cursor()
	}
	for _, t := range found {
		st.todo[t.handle] = t
	}
	page.Handles = slices.DeleteFunc(slices.Clone(page.Handles), func(h mailbox.Handle) bool { return st.todo[h] != nil })
	st.decoys.add(page, begin, end, e.rng)
	return nil
}

// pushed takes a digest page that a courier passed on. What is missing before it becomes a gap, which GETs read.
func (e *Engine) pushed(a mailbox.Address, part []byte) {
	e.mu.Lock()
	st := e.depots[a]
	ok := st != nil && st.own && st.sealer != nil && st.descriptor != nil && st.follow.begun
	e.mu.Unlock()
	if !ok {
		return
	}
	page, err := st.sealer.ParsePushed(part)
	if err != nil {
		e.log.Debug("a pushed digest page does not hold", "err", err)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.depots[a] != st || st.descriptor == nil || !st.follow.begun {
		return
	}
	now, bucket, f := time.Now(), st.descriptor.bucket, &st.follow
	from, to, good := page.Buckets()
	_, end := page.Times(bucket)
	if !good || page.Part > 0 || to > mailbox.BucketAt(now.Add(maxSlack), bucket) || !f.news(span{from, to}) {
		return // what is read twice, or is the rest of a page that is read through GETs
	}
	f.slack = max(min(f.slack, now.Sub(end)), -maxSlack) // it is closed: our clock may be behind
	if err := e.readPage(st, page, bucket); err != nil {
		e.warn("keeping a pushed digest page", err)
		f.unreadAgain(span{from, to})
	}
}

// behind tells whether there is something of the store's digest to be read through GETs, once what is about to be pushed
// is left out.
func (e *Engine) behind(st *depot, p *Profile, now time.Time) bool {
	if !st.knows(now) || !st.follow.begun {
		return false
	}
	f, bucket := &st.follow, st.descriptor.bucket
	grace := min(2*p.Push+2*oneWay+time.Second, bucket*ahead/2)
	f.advance(mailbox.BucketAt(now.Add(-f.slack-grace), bucket), mailbox.BucketAt(now, bucket))
	return len(f.gaps) > 0 || len(f.open) > 0
}

// cursorEvery is how often a cursor is saved though nothing was found.
const cursorEvery = 30 * time.Second

// saveCursors keeps how far the digests were read. Losing it only costs reading again. The caller holds mu.
func (e *Engine) saveCursors() error {
	err := e.kv.Update(func(txn store.Txn) error {
		for _, st := range e.depots {
			if f := &st.follow; st.own && f.begun && f.cursor() != f.saved {
				if err := txn.Set(store.Key(tableDigest, string(st.address.Onion)), binary.BigEndian.AppendUint64(nil, f.cursor())); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, st := range e.depots {
		if f := &st.follow; st.own && f.begun { // of others the disk knows more
			f.saved = f.cursor()
		}
	}
	return nil
}

// drainFor is how long a mailbox that ceased to be one of ours is read: as long as most keep a box.
const drainFor = 14*24*time.Hour + 2*time.Hour

// loadDraining finds the mailboxes that were our own and are not any more, by their cursors. Contacts may not know yet:
// what they leave there is read until it would have expired.
func (e *Engine) loadDraining(now time.Time) error {
	var write, forget []mailbox.Address
	err := e.kv.View(func(r store.Reader) error {
		return scan(r, tableDigest, func(k *store.KeyReader, _ []byte) error {
			name, err := onionid.Parse(k.String())
			if err != nil || k.Err() != nil {
				return errors.Join(ErrRow, err, k.Err())
			}
			a := mailbox.Address{Onion: name}
			row, err := r.Get(store.Key(tableDrain, string(name)))
			switch {
			case err != nil && !errors.Is(err, store.ErrNotFound):
				return err
			case slices.Contains(e.own, a):
				if err == nil {
					forget = append(forget, a) // it is ours again
				}
			case err != nil:
				write = append(write, a)
				e.draining = append(e.draining, a)
			case len(row) == 8 && now.Sub(time.Unix(int64(binary.BigEndian.Uint64(row)), 0)) < drainFor:
				e.draining = append(e.draining, a)
			default:
				forget = append(forget, a)
			}
			return nil
		})
	})
	if err != nil || len(write)+len(forget) == 0 {
		return err
	}
	return e.kv.Update(func(txn store.Txn) error {
		for _, a := range write {
			if err := txn.Set(store.Key(tableDrain, string(a.Onion)), binary.BigEndian.AppendUint64(nil, uint64(now.Unix()))); err != nil {
				return err
			}
		}
		for _, a := range forget {
			if err := txn.Delete(store.Key(tableDrain, string(a.Onion))); err != nil {
				return err
			}
			if !slices.Contains(e.own, a) {
				if err := txn.Delete(store.Key(tableDigest, string(a.Onion))); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// loadDepots reads the cursors and the boxes that are still to be fetched. stale are the rows of those that nobody waits
// for any more: they came by another store, or their contact was forgotten or made anew.
func (e *Engine) loadDepots(r store.Reader, stale *[][]byte) error {
	for _, st := range e.depots {
		if !st.own {
			continue
		}
		name := string(st.address.Onion)
		switch b, err := r.Get(store.Key(tableDigest, name)); {
		case err == nil && len(b) == 8:
			st.follow.saved = binary.BigEndian.Uint64(b)
		case err == nil:
			return fmt.Errorf("digest cursor: %w", ErrRow)
		case !errors.Is(err, store.ErrNotFound):
			return err
		}
		err := scanOf(r, tableTodo, name, func(k *store.KeyReader, v []byte) error {
			row := k.String()
			t, err := parseTodo(v)
			if err != nil || k.Err() != nil || len(row) != len(t.row) {
				return errors.Join(ErrRow, err, k.Err())
			}
			copy(t.row[:], row)
			if rf, ok := e.expected[t.handle]; ok && st.todo[t.handle] == nil {
				t.ref = rf
				st.todo[t.handle] = t
			} else {
				*stale = append(*stale, t.key(st))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
