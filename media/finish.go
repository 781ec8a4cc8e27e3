// SPDX-License-Identifier: Apache-2.0

package media

import (
	"errors"
	"io"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// maybeFinish puts a file together that is all here. The caller holds remote.mu, which is free meanwhile. Only one goroutine adds parts.
//
// A crash before take's transaction: the row and the parts are there, and with the last part, which is given again, or with the next question, it is
// tried again. After it: the file is here, the row is gone, and Open deletes the parts.
func (s *Store) maybeFinish(c *coming) error {
	n := parts(c.Size)
	if c.Hash == "" || c.got < n {
		return nil
	}
	s.remote.mu.Unlock()
	err := errHash // parts that no file of that size has
	if c.got == n {
		err = s.take(taking{id: c.key(), from: c.Server, hash: c.Hash}, &partReader{kv: s.kv, r: c.Remote}, c.Size, Meta{c.Type, c.Name})
	}
	s.remote.mu.Lock()
	now := time.Now()
	switch {
	case err == nil:
		delete(s.remote.coming[c.Server], c.name())
		s.wake(c.topic(), nil)
		return s.eraseParts(c.Remote)
	case errors.Is(err, errHash), errors.Is(err, ErrCut), errors.Is(err, ErrTooLarge):
		if c.Again {
			return s.fail(c, failedHash, now)
		}
		c.comingRow = comingRow{Since: c.Since, Due: now.UnixMilli(), Again: true}
		c.have, c.got = nil, 0
		return errors.Join(s.saveComing(c), s.eraseParts(c.Remote))
	case errors.Is(err, ErrQuota):
		return s.fail(c, failedSpace, now)
	}
	return err
}

// cameFrom counts a file of another server, in take's transaction, and ends its row.
func (s *Store) cameFrom(txn store.Txn, t taking, size int64) error {
	r, ok := parseRemote(t.id)
	if !ok {
		return errRow
	}
	of, err := serverTotal(txn, r.Server)
	if err != nil {
		return err
	}
	if of+size > s.opt.RemoteQuota {
		return ErrQuota
	}
	return errors.Join(txn.Set(store.Key(tableServer, string(r.Server)), store.AppendUint64(nil, uint64(of+size))), txn.Delete(comingKey(r)))
}

// wentOf is its reverse, of a file that is deleted.
func (s *Store) wentOf(txn store.Txn, server matrix.ServerName, size int64) error {
	of, err := serverTotal(txn, server)
	if err != nil {
		return err
	}
	return txn.Set(store.Key(tableServer, string(server)), store.AppendUint64(nil, uint64(max(of-size, 0))))
}

// partReader reads the parts of a file one after another.
type partReader struct {
	kv   store.KV
	r    Remote
	next uint64
	b    []byte
}

func (p *partReader) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		err := p.kv.View(func(rd store.Reader) (err error) {
			p.b, err = rd.Get(store.Key(tablePart, string(p.r.Server), p.r.name(), p.next))
			return err
		})
		if errors.Is(err, store.ErrNotFound) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
		p.next++
	}
	n := copy(b, p.b)
	p.b = p.b[n:]
	return n, nil
}
