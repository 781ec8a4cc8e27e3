// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// Package room passes events on to the contacts that probably lack them (room/relay.go). Here is what it knows of them: who our contacts
// are, what each said of whose events it gets from themselves (SPEC §8.11), and what each has shown to have since an event was
// queued for it.
//
// What we say ourselves never makes a box: it rides in one that leaves anyway, or in a summary, which takes the place of cover.

// relayState is a contact's part of it. Guarded by the engine's mutex, as all of contact.
type relayState struct {
	sources []onionid.Name // as it said
	serial  uint64         // of that; 0: it said nothing yet
	told    toldSources    // what it was told
	now     []onionid.Name // what it is to be told
	shown   shownEvents
	sent    shownEvents // what was packed for it, or is about to be
}

// toldSources is what a contact was told.
type toldSources struct {
	serial uint64
	hash   [32]byte // of the servers; zeros: nothing that counts
}

func (t toldSources) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.uvarint(t.serial)
	w.raw(t.hash[:])
	return w.b
}

func parseToldSources(b []byte) (toldSources, error) {
	r := reader{b: b}
	r.version()
	t := toldSources{serial: r.uvarint(), hash: r.key32()}
	return t, r.end()
}

// hashOf is of servers as they stand in a record.
func hashOf(servers []onionid.Name) [32]byte {
	s := sha256.New()
	for _, n := range servers {
		s.Write([]byte(n))
	}
	return [32]byte(s.Sum(nil))
}

func (c *contact) loadSources(r store.Reader) error {
	told, err := row(r, store.Key(tableToldSources, string(c.name)), parseToldSources)
	if err != nil {
		return fmt.Errorf("told sources: %w", err)
	}
	c.relay.told = told
	v, err := r.Get(store.Key(tableSources, string(c.name)))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	said, err := bundle.ParseSources(bytes.Clone(v))
	if err != nil {
		return fmt.Errorf("sources: %w: %w", ErrRow, err)
	}
	c.relay.sources, c.relay.serial = said.Servers, said.Serial
	return nil
}

// forgetSources makes c be told everything again; the serial stays.
func forgetSources(txn store.Txn, c *contact) error {
	return txn.Set(store.Key(tableToldSources, string(c.name)), toldSources{serial: c.relay.told.serial}.marshal())
}

// setPeers tells package room who the contacts are and what they said, and package account who they are. The caller holds mu (or is New).
func (e *Engine) setPeers() {
	peers, contacts := make(map[matrix.ServerName]room.Peer, len(e.contacts)), make(map[matrix.ServerName]bool, len(e.contacts))
	for _, c := range e.contacts {
		p := room.Peer{Said: c.relay.serial != 0, Sources: make(map[matrix.ServerName]bool, len(c.relay.sources))}
		for _, s := range c.relay.sources {
			p.Sources[s] = true
		}
		peers[c.name], contacts[c.name] = p, true
	}
	e.peering++
	e.rooms.SetPeers(peers)
	if e.accounts != nil {
		e.accounts.SetContacts(contacts)
	}
}

// takeSources is a contact's word about whose events it gets from themselves. It is believed: who says too much gets too little.
func (e *Engine) takeSources(c *contact, data []byte) (effect, error) {
	said, err := bundle.ParseSources(data)
	if err != nil {
		return effect{}, refuse(err)
	}
	take := false
	return effect{
		write: func(txn store.Txn) error {
			if take = said.Serial > c.relay.serial; !take {
				return nil // an older one that came later
			}
			return txn.Set(store.Key(tableSources, string(c.name)), bytes.Clone(data))
		},
		apply: func() {
			if take {
				c.relay.sources, c.relay.serial = said.Servers, said.Serial
				e.setPeers()
			}
		},
	}, nil
}

// workSources compares, now and then, what contacts are to be told with what is so, if anything changed. It writes nothing.
func (e *Engine) workSources(ctx context.Context) {
	var rooms, contacts uint64
	first := true
	for {
		timer := time.NewTimer(e.profile.Load().Want / 2)
		e.mu.Lock()
		peering := e.peering
		e.mu.Unlock()
		now := e.rooms.Memberships() // before what it counts is read
		if first || now != rooms || peering != contacts {
			if err := e.compareSources(ctx); err == nil {
				first, rooms, contacts = false, now, peering
			} else if ctx.Err() == nil {
				e.warn("comparing whose events come from whom", err)
			}
		}
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

func (e *Engine) compareSources(ctx context.Context) error {
	e.mu.Lock()
	known := map[onionid.Name]bool{}
	var all []*contact
	for _, c := range e.contacts {
		known[c.name] = true
		all = append(all, c)
	}
	e.mu.Unlock()
	slices.SortFunc(all, func(a, b *contact) int { return bytes.Compare([]byte(a.name), []byte(b.name)) })
	for _, c := range all {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fellows, err := e.rooms.Fellows(c.name)
		if err != nil {
			return err
		}
		s := bundle.Sources{Servers: slices.DeleteFunc(fellows, func(s onionid.Name) bool { return !known[s] })}
		s.Servers = s.Servers[:min(len(s.Servers), bundle.MaxSources)]
		s.Sort()
		e.mu.Lock()
		c.relay.now = s.Servers
		if _, yes := c.relay.untold(); yes {
			if due := time.Now().Add(e.exp(e.profile.Load().Want)); due.Before(c.headsDue) {
				c.headsDue = due
			}
		}
		e.mu.Unlock()
	}
	return nil
}

// untold tells whether the contact is to be told something, and the hash of that.
func (r *relayState) untold() (hash [32]byte, yes bool) {
	hash = hashOf(r.now)
	return hash, hash != r.told.hash && (r.told.serial != 0 || len(r.now) > 0)
}

// addSources puts what c is to be told into a box that is being filled, if there is room for it. What is in a box arrives, or the streams
// begin anew and everything is told again.
func (e *Engine) addSources(c *contact, f *filling, add func(bundle.Record) bool, now time.Time) bool {
	hash, yes := c.relay.untold()
	if !yes {
		return false
	}
	serial := max(uint64(now.UnixMilli()), c.relay.told.serial+1)
	rec, err := bundle.Sources{Serial: serial, Servers: c.relay.now}.Record()
	if err != nil || !add(rec) {
		return false
	}
	f.sources = &toldSources{serial, hash}
	return true
}

// shownEvents remembers some events that a contact has shown to have, the last maxShown at least: what waits for it then need
// not be sent. It is in memory alone: what is forgotten is sent twice.
type shownEvents struct {
	young, old map[uint64]struct{}
}

const maxShown = 4096

// shownKey is an event id's beginning: a contact that finds two alike withholds one from itself.
func shownKey(id matrix.EventID) uint64 {
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint64(sum[:])
}

func (s *shownEvents) add(id matrix.EventID) {
	if s.young == nil {
		s.young = map[uint64]struct{}{}
	}
	if len(s.young) >= maxShown {
		s.young, s.old = map[uint64]struct{}{}, s.young
	}
	s.young[shownKey(id)] = struct{}{}
}

func (s *shownEvents) has(id matrix.EventID) bool {
	k := shownKey(id)
	_, young := s.young[k]
	_, old := s.old[k]
	return young || old
}

func (s *shownEvents) drop(id matrix.EventID) {
	k := shownKey(id)
	delete(s.young, k)
	delete(s.old, k)
}
