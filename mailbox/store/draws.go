// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"time"

	"tarn/crypto/token"
	"tarn/mailbox"
	kv "tarn/store"
)

// draw is a row of rowDraw.
type draw struct {
	hash    [32]byte  // of the request's id and box: the identical one is told OK
	expires time.Time // zero: it waits for the worker
	request []byte    // then: id 16, the request's box without the zeros at its end
	answer  []byte    // else: the box
}

func (w draw) marshal() []byte {
	b := append([]byte(nil), w.hash[:]...)
	if w.expires.IsZero() {
		return append(binary.BigEndian.AppendUint64(b, 0), w.request...)
	}
	return append(binary.BigEndian.AppendUint64(b, uint64(w.expires.Unix())), w.answer...)
}

func parseDraw(v []byte) (w draw, err error) {
	if len(v) < 40 {
		return w, errBook
	}
	w.hash = [32]byte(v)
	secs := binary.BigEndian.Uint64(v[32:])
	if secs == 0 {
		if w.request = v[40:]; len(w.request) <= mailbox.IDSize || len(w.request) > mailbox.IDSize+mailbox.BoxSize {
			return w, errBook
		}
		return w, nil
	}
	if w.expires, w.answer = time.Unix(int64(secs), 0), v[40:]; len(w.answer) != mailbox.BoxSize {
		return w, errBook
	}
	return w, nil
}

// waiting is a draw, or its answer.
type waiting struct {
	ends  time.Time // when the answer goes; zero: it is not there yet
	owner owner
}

// owner is whose a draw is.
type owner struct {
	id   mailbox.AccountID // zero: nobody knows any more
	work bool              // an account by work
}

// places counts the draws and answers that wait, so that neither one account nor all those that cost nothing but work can
// take the places of everybody.
type places struct {
	all, work int
	of        map[mailbox.AccountID]int
}

func newPlaces() places { return places{of: map[mailbox.AccountID]int{}} }

func (p *places) free(o owner) bool {
	return p.all < maxDraws && p.of[o.id] < maxOwnDraws && (!o.work || p.work < maxWorkDraws)
}

func (p *places) add(o owner, n int) {
	p.all += n
	if o.work {
		p.work += n
	}
	if o.id == (mailbox.AccountID{}) {
		return
	}
	if p.of[o.id] += n; p.of[o.id] == 0 {
		delete(p.of, o.id)
	}
}

// take is a place for a draw of that account, before it is on the disk; false: there is none.
func (d *desk) take(o owner) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.places.free(o) {
		return false
	}
	d.places.add(o, 1)
	return true
}

// giveUp gives it back.
func (d *desk) giveUp(o owner) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.places.add(o, -1)
}

func drawKey(h mailbox.Handle) []byte { return append([]byte{rowDraw}, h[:]...) }

// issue takes a draw in.
func (d *desk) issue(q mailbox.Request) (mailbox.Status, error) {
	i, err := mailbox.ParseIssue(q)
	if err != nil || d.keys.drawable(i.Epoch, time.Now()) == nil {
		return mailbox.StatusRefused, nil
	}
	n := len(i.Blinded) / token.ElementSize
	id, handle := i.Account.ID(), q.ID.Handle()
	// The account is looked for first: who has none shall not make us decode elements.
	switch err := d.book.View(func(r kv.Reader) error { _, err := d.account(r, id); return err }); {
	case errors.Is(err, kv.ErrNotFound):
		return mailbox.StatusAccount, nil
	case err != nil:
		return bookStatus(err), err
	case d.keys.elements(i.Blinded) != nil:
		return mailbox.StatusRefused, nil
	}
	w := draw{hash: sha256.Sum256(slices.Concat(q.ID[:], q.Box)), request: slices.Concat(q.ID[:], trimZeros(q.Box))}
	room, cap, perDay := d.room(), d.cap, d.perDay
	if isSession(i.Epoch) {
		room, cap, perDay = true, sessionCap, d.sessions
	}
	day := binary.BigEndian.AppendUint32(nil, i.Epoch)
	drawn, total := append(append([]byte{rowDrawn}, day...), id[:]...), append([]byte{rowTotal}, day...)
	status, fresh, own := mailbox.StatusOK, false, owner{id: id}
	err = d.book.Update(func(x kv.Txn) error {
		status, fresh = mailbox.StatusOK, false
		old, err := x.Get(drawKey(handle))
		if err == nil {
			if have, err := parseDraw(old); err != nil || have.hash != w.hash {
				status = mailbox.StatusExists
				return err
			}
			return nil
		}
		if !errors.Is(err, kv.ErrNotFound) {
			return err
		}
		proof, err := d.account(x, id)
		if errors.Is(err, kv.ErrNotFound) {
			status = mailbox.StatusAccount
			return nil
		}
		if err != nil {
			return err
		}
		mine, err := numbers(x, drawn, 1)
		if err != nil {
			return err
		}
		all, err := numbers(x, total, 2)
		if err != nil {
			return err
		}
		switch {
		case int(mine[0])+n > cap:
			status = mailbox.StatusCap
			return nil
		case !room, int(all[0])+n > perDay, proof == mailbox.ProofWork && int(all[1])+n > perDay/2:
			// Accounts of work have half of a day's tokens together: who can make many shuts out none of the others.
			status = mailbox.StatusFull
			return nil
		}
		if own.work = proof == mailbox.ProofWork; !d.take(own) {
			status = mailbox.StatusBusy
			return nil
		}
		fresh = true
		mine[0] += uint32(n)
		all[0] += uint32(n)
		if proof == mailbox.ProofWork {
			all[1] += uint32(n)
		}
		if proof != 0 {
			err = x.Set(accountKey(id), accountRow(proof, mailbox.Epoch(time.Now()), true))
		}
		return errors.Join(err, x.Set(drawn, numberRow(mine)), x.Set(total, numberRow(all)), x.Set(drawKey(handle), w.marshal()))
	})
	if err != nil {
		if fresh {
			d.giveUp(own)
		}
		return bookStatus(err), err
	}
	if fresh {
		d.mu.Lock()
		d.draws[handle] = waiting{owner: own}
		d.mu.Unlock()
		d.rouse()
	}
	return status, nil
}

func trimZeros(b []byte) []byte {
	n := len(b)
	for n > 0 && b[n-1] == 0 {
		n--
	}
	return b[:n]
}

// numbers reads n numbers of 4 bytes; zeros if there is no row.
func numbers(r kv.Reader, key []byte, n int) ([]uint32, error) {
	v, err := r.Get(key)
	if errors.Is(err, kv.ErrNotFound) {
		return make([]uint32, n), nil
	}
	if err != nil || len(v) != 4*n {
		return nil, errors.Join(errBook, err)
	}
	out := make([]uint32, n)
	for i := range out {
		out[i] = binary.BigEndian.Uint32(v[4*i:])
	}
	return out, nil
}

func numberRow(ns []uint32) (b []byte) {
	for _, n := range ns {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// answer copies the answer to a draw, if it is there.
func (d *desk) answer(h mailbox.Handle, box *[mailbox.BoxSize]byte) (found bool, err error) {
	err = d.book.View(func(r kv.Reader) error {
		v, err := r.Get(drawKey(h))
		if errors.Is(err, kv.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		w, err := parseDraw(v)
		if err == nil && w.answer != nil && time.Now().Before(w.expires) {
			found = true
			copy(box[:], w.answer)
		}
		return err
	})
	if errors.Is(err, kv.ErrDiskFull) {
		err = nil // the book is not open: there is no answer yet
	}
	return found, err
}

func (d *desk) rouse() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// run evaluates the draws that wait, one after another, until ctx ends.
func (d *desk) run(ctx context.Context, fault func(string, error)) {
	var tidy sync.WaitGroup
	tidy.Go(func() { d.book.run(ctx) })
	defer tidy.Wait()
	d.rouse()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		}
		d.mu.Lock()
		var due []mailbox.Handle
		for h, w := range d.draws {
			if w.ends.IsZero() {
				due = append(due, h)
			}
		}
		d.mu.Unlock()
		for _, h := range due {
			if ctx.Err() != nil {
				return
			}
			if err := d.evaluate(h); err != nil {
				fault("answer a draw of tokens", err)
			}
		}
	}
}

// evaluate turns a draw into its answer. A draw whose key is gone meanwhile, or that is damaged, is dropped.
func (d *desk) evaluate(h mailbox.Handle) error {
	var w draw
	err := d.book.View(func(r kv.Reader) error {
		v, err := r.Get(drawKey(h))
		if err != nil {
			return err
		}
		w, err = parseDraw(v)
		return err
	})
	if err != nil {
		return err
	}
	if w.answer != nil {
		d.ready(h, w.expires)
		return nil
	}
	q := mailbox.Request{Op: mailbox.OpIssue, ID: mailbox.BoxID(w.request), Box: make([]byte, mailbox.BoxSize)}
	copy(q.Box, w.request[mailbox.IDSize:])
	i, err := mailbox.ParseIssue(q)
	var box *[mailbox.BoxSize]byte
	if err == nil {
		if k := d.keys.get(i.Epoch); k == nil {
			err = errors.New("its key is gone")
		} else {
			var answer []byte
			if answer, err = k.Evaluate(i.Blinded); err == nil {
				box, err = mailbox.SealIssued(&i.Key, q.ID, answer)
			}
		}
	}
	if err != nil {
		return errors.Join(err, d.drop(h))
	}
	w.expires, w.answer = time.Now().Add(answerTime), box[:]
	if err := d.book.Update(func(x kv.Txn) error { return x.Set(drawKey(h), w.marshal()) }); err != nil {
		return err // it stays, for the next time the worker is woken
	}
	d.ready(h, w.expires)
	return nil
}

func (d *desk) ready(h mailbox.Handle, expires time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := d.draws[h]
	w.ends = expires
	d.draws[h] = w
}

func (d *desk) drop(hs ...mailbox.Handle) error {
	err := d.book.Update(func(x kv.Txn) error {
		for _, h := range hs {
			if err := x.Delete(drawKey(h)); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, h := range hs {
			if w, ok := d.draws[h]; ok {
				d.places.add(w.owner, -1)
				delete(d.draws, h)
			}
		}
	}
	return err
}
