// SPDX-License-Identifier: Apache-2.0

package room

import (
	"cmp"
	"crypto/ed25519"
	"fmt"

	"tarn/crypto/onionid"
	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// maxKeys bounds the event-signing keys that are kept of one server. A server that changes its key more often is not heard any more.
const maxKeys = 32

// AddCertificate stores a server's event-signing key. c was checked when it was parsed. Earlier keys stay known: they
// signed events. ErrTooLarge for a server's 33rd key.
func (r *Rooms) AddCertificate(c onionid.Certificate) error {
	if err := checkCertificate(c); err != nil {
		return err
	}
	k := certificateKey(c.Server, c.KeyID)
	newest := certificateKey(c.Server, "")
	have := false
	err := r.kv.View(func(rd store.Reader) error {
		_, err := rd.Get(k)
		v, err2 := rd.Get(newest)
		have = err == nil && err2 == nil && string(v) == c.KeyID
		return nil
	})
	if have || err != nil {
		return err
	}
	err = r.kv.Update(func(txn store.Txn) error { return putCertificate(txn, c) })
	if err != nil {
		return fmt.Errorf("storing a certificate: %w", err)
	}
	return nil
}

func checkCertificate(c onionid.Certificate) error {
	if c.Server == "" || c.KeyID == "" || len(c.Key) != ed25519.PublicKeySize || len(c.Bytes()) == 0 {
		return fmt.Errorf("storing a certificate: %w: empty", ErrBadEvent)
	}
	return nil
}

func putCertificate(txn store.Txn, c onionid.Certificate) error {
	k := certificateKey(c.Server, c.KeyID)
	if _, err := txn.Get(k); isNotFound(err) {
		n := 0
		err := txn.Scan(certificateKey(c.Server, ""), nil, func(_, _ []byte) (bool, error) { n++; return true, nil })
		if err != nil {
			return err
		}
		if n > maxKeys {
			return fmt.Errorf("%w: a server with more than %d keys", ErrTooLarge, maxKeys)
		}
		if err := txn.Set(k, c.Bytes()); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return txn.Set(certificateKey(c.Server, ""), []byte(c.KeyID))
}

// Certificate finds a server's newest one again.
func (r *Rooms) Certificate(server matrix.ServerName) (onionid.Certificate, bool, error) {
	var c onionid.Certificate
	found := false
	err := r.kv.View(func(rd store.Reader) error {
		id, err := rd.Get(certificateKey(server, ""))
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		c, err = r.certificate(rd, server, string(id))
		found = err == nil
		return err
	})
	if err != nil {
		return onionid.Certificate{}, false, fmt.Errorf("reading a certificate: %w", err)
	}
	return c, found, nil
}

// certificate reads one of a server's. A certificate under a key id never changes, and checking it costs three times
// what checking an event does, so it is kept in memory.
func (r *Rooms) certificate(rd store.Reader, server matrix.ServerName, keyID string) (onionid.Certificate, error) {
	if keyID == "" {
		return onionid.Certificate{}, store.ErrNotFound
	}
	k := string(certificateKey(server, keyID))
	if c, ok := r.certs.get(k); ok {
		return c, nil
	}
	raw, err := rd.Get([]byte(k))
	if err != nil {
		return onionid.Certificate{}, err
	}
	c, err := onionid.ParseCertificate(raw)
	if err == nil {
		r.certs.put(k, c, len(k)+len(raw)+certCost)
	}
	return c, err
}

// keysWith is the matrix.KeyFunc over given certificates (by server, space, key id) and the stored ones. It remembers
// what it found: a batch of events mostly has few servers.
func (r *Rooms) keysWith(found map[string]onionid.Certificate) matrix.KeyFunc {
	return func(server matrix.ServerName, keyID string) (ed25519.PublicKey, error) {
		name := string(server) + " " + keyID
		if c, ok := found[name]; ok {
			return c.Key, nil
		}
		if server == r.server() && keyID == r.o.Signer.KeyID {
			return r.o.Signer.Key.Public().(ed25519.PublicKey), nil
		}
		var c onionid.Certificate
		err := r.kv.View(func(rd store.Reader) (err error) {
			c, err = r.certificate(rd, server, keyID)
			return err
		})
		if isNotFound(err) {
			return nil, matrix.ErrUnknownKey
		}
		if err != nil {
			return nil, err
		}
		found[name] = c
		return c.Key, nil
	}
}

// Raw reads an event's wire bytes, as the node's own events go out. For what another node asks for see RawFor. ErrUnknownEvent.
func (r *Rooms) Raw(room matrix.RoomID, id matrix.EventID) ([]byte, error) {
	var raw []byte
	err := r.read(room, func(q *reading) error {
		e, err := q.byID(id)
		if err == nil && e == nil {
			err = ErrUnknownEvent
		}
		if err == nil {
			raw = shown(e).Raw() // what was redacted is given redacted
		}
		return err
	})
	return raw, err
}

// RawFor reads an event's wire bytes for a server that asks for them ("want" records). What the room's history visibility
// keeps from it, it gets redacted, as long as it is in the room: it needs every event's place in the graph, or it could not
// take what comes after. What ended its part in the room comes after something too: of a server that left or was removed the
// events before that are given in the same way. ErrUnknownEvent: it is not here, or the server was not in the room.
func (r *Rooms) RawFor(server matrix.ServerName, room matrix.RoomID, id matrix.EventID) ([]byte, error) {
	var raw []byte
	err := r.read(room, func(q *reading) error {
		e, err := q.byID(id)
		if err != nil {
			return err
		}
		if e == nil {
			return ErrUnknownEvent
		}
		if denied, err := q.denied(server); denied || err != nil {
			return cmp.Or(err, ErrUnknownEvent)
		}
		may, err := q.mayHave(server, e)
		if err != nil {
			return err
		}
		if may {
			raw = shown(e).Raw()
			return nil
		}
		in, err := q.serverIn(server)
		if err == nil && !in {
			in, err = q.wasInAfter(server, e)
		}
		if err == nil && !in {
			in, err = q.partedAt(server, e)
		}
		if err != nil {
			return err
		}
		if !in {
			return ErrUnknownEvent
		}
		raw = e.ev.Redact().Raw()
		return nil
	})
	return raw, err
}

// Version is the room's version. ErrUnknownRoom.
func (r *Rooms) Version(room matrix.RoomID) (matrix.RoomVersion, error) {
	var v matrix.RoomVersion
	err := r.read(room, func(q *reading) error { v = q.row.version; return nil })
	return v, err
}

// Heads are the room's forward extremities, for "heads" summaries. ErrUnknownRoom also for a room that the node takes no part in.
func (r *Rooms) Heads(room matrix.RoomID) ([]matrix.EventID, error) {
	var out []matrix.EventID
	err := r.read(room, func(q *reading) error {
		if !q.row.active {
			return ErrUnknownRoom
		}
		for _, h := range q.row.heads {
			out = append(out, h.id())
		}
		return nil
	})
	return out, err
}

// Shared lists the rooms that have joined members of both this node and server, and do not deny it.
func (r *Rooms) Shared(server matrix.ServerName) ([]matrix.RoomID, error) {
	var out []matrix.RoomID
	err := r.eachOf(server, func(q *reading) error {
		denied, err := q.denied(server)
		if err == nil && !denied {
			out = append(out, q.row.id)
		}
		return err
	})
	return out, err
}

// Lacks tells whether the node lacks an event: it does not hold it, or without its content, which users here may read.
func (r *Rooms) Lacks(room matrix.RoomID, id matrix.EventID) (lacks bool, err error) {
	err = r.read(room, func(q *reading) error {
		e, err := q.byID(id)
		if lacks = e == nil; lacks || err != nil {
			return err
		}
		lacks, err = q.torn(e)
		return err
	})
	return lacks, err
}

// Status of an event here, for tests and doctors. ErrUnknownEvent.
func (r *Rooms) Status(room matrix.RoomID, id matrix.EventID) (dag.Status, error) {
	var s dag.Status
	err := r.read(room, func(q *reading) error {
		e, err := q.byID(id)
		if err == nil && e == nil {
			err = ErrUnknownEvent
		}
		if err == nil {
			s = e.status
		}
		return err
	})
	return s, err
}
