// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"tarn/crypto/onionid"
	"tarn/crypto/ratchet"
	"tarn/crypto/sealed"
	"tarn/mailbox"
	"tarn/store"
)

// Limits of one contact.
const (
	maxUnacked = 1000           // boxes above the first that the peer lacks, with new content
	maxReseal  = 1400           // with old content under a new index
	maxAhead   = 1900           // with word that boxes were given up: within the peer's Window, so that it can always get on
	lookahead  = ratchet.Window // handles of boxes that we wait for
	maxInbox   = 2000           // received records not worked off: beyond, no more boxes are fetched
	maxWants   = 2000           // events to ask for
	maxPartial = 16 << 20       // bytes of received fragments of unfinished records
	maxSets    = 32             // unfinished records
	maxHeld    = 4 * maxPartial // bytes of received fragments in all, those of finished records that wait included: as maxInbox
)

// contactState is how far a contact is.
type contactState byte

// The states, as stored. There is one; a link on its way is an invite or an accept.
const (
	contactActive contactState = 1
)

// contact is another node that we share a stream pair with. Guarded by the engine's mutex.
type contact struct {
	name onionid.Name
	contactRow

	pair     ratchet.Pair
	turns    [2]uint64 // of each class of outbox items, the lane that had the last turn
	ackSent  [32]byte  // what the newest box acknowledged (acks)
	recovery *recovery // one that is under way

	recoveryDay uint32 // the day for which its places are in the engine's map

	boxes     map[boxAt]*box    // unacknowledged
	floorDue  time.Time         // when the peer is told (again) that we gave up a box it waits for
	floorTold int               // how often it was
	highAcked uint64            // the index after the highest one of this epoch acknowledged since the engine began
	mapped    map[uint32]uint64 // of each epoch: expected slots are in the engine's map below this index
	fragments int               // rows that wait for a box
	gatherAt  time.Time         // before, it is not looked whether what is gathered for it fills a box (gather.go)
	ackDue    time.Time         // zero: nothing to acknowledge alone
	headsDue  time.Time
	headsAt   int                           // which shared room the next summary begins with
	witnessAt int                           // which mailbox the next witness begins with
	shown     map[mailbox.Address]time.Time // when it was shown what a mailbox signed
	probeDue  time.Time                     // when the lowest missing box is looked for unlisted (fetch.go), as planned for
	probeFor  boxAt                         // this one,
	probeHole bool                          // with or without a later box here,
	probes    int                           // after so many times
	lastRead  time.Time                     // when one of its boxes was last chosen to be read (chooseRead)
	inbox     int                           // rows
	// The inbox's worker's own: where its next turn begins (nil: at the first row), when the first row is due that it has passed since
	// the first, and the engine's wakes when it was there.
	turnFrom  []byte
	turnDue   time.Time
	turnWakes int64
	partial   map[[16]byte]*assembly
	bytes     int // of partial
	wants     map[wantKey]*want
	tokens    map[tokensOf]int      // chunks of ours that it was given
	left      map[tokensOf]*leftBox // the boxes of tokens that are left for it
	sought    bool                  // we look for one that it left for us:
	looks     int                   // after so many times,
	lookDue   time.Time             // not before,
	lookAfter time.Time             // and if we do not look, not before
	lookBusy  bool
	giveAfter time.Time // it gets more of other days than today's
	cut       bool      // it is given no more
	keys      keyState
	given     map[onionid.Name]bool // servers whose certificates were put into boxes for it
	relay     relayState
	signs     signState
	intro     introducerRow
	unneeded  time.Duration // in which no room needed it, though it was introduced
}

// contactRow is what is kept of a contact beside its streams.
type contactRow struct {
	state      contactState
	initiator  bool // we made the link
	created    time.Time
	lastHeard  time.Time
	voucher    [32]byte          // of the link that made the contact
	stores     []mailbox.Address // where boxes for it are left
	serial     uint64            // of the newest word about them
	told       []mailbox.Address // our stores, as it was told
	peerNext   uint64            // the lowest index of this epoch that the contact lacks, by its newest acknowledgement
	numberKey  [32]byte          // with the inviter's nonce it gives the number that people compare
	promise    [32]byte          // acceptor: SHA-256 of that nonce, as the link's payload promised
	number     string            // "" until the nonce is known
	toldSerial uint64            // of the newest word about our stores
	linkExpiry time.Time         // of the link that made the contact
	// For recoveries, both ends': a secret of the first contact, our key, and the contact's public one.
	recoverySecret [32]byte
	ownKey         [sealed.PrivateKeySize]byte
	peerKey        []byte
	recovered      time.Time    // of the newest request or answer that was taken
	rescued        uint32       // the epoch that began by it
	unsent         uint64       // events in the outbox that were given up since it was away too long
	unsentMessages uint64       // to-device messages, likewise
	introducer     onionid.Name // the contact that introduced it; "": a person did
	// What it sent that no honest node does: events that are forged, records and boxes that are not what they say. On the disk with the next box.
	broken uint64
}

func (c *contactRow) marshal() []byte {
	w := writer{}
	w.u8(rowVersion)
	w.u8(byte(c.state))
	w.flag(c.initiator)
	w.time(c.created)
	w.time(c.lastHeard)
	w.raw(c.voucher[:])
	w.stores(c.stores)
	w.uvarint(c.serial)
	w.stores(c.told)
	w.uvarint(c.peerNext)
	w.raw(c.numberKey[:])
	w.raw(c.promise[:])
	w.str(c.number)
	w.uvarint(c.toldSerial)
	w.time(c.linkExpiry)
	w.raw(c.recoverySecret[:])
	w.raw(c.ownKey[:])
	w.bytes(c.peerKey)
	w.time(c.recovered)
	w.uvarint(uint64(c.rescued))
	w.uvarint(c.unsent)
	w.uvarint(c.unsentMessages)
	w.str(string(c.introducer))
	w.uvarint(c.broken)
	return w.b
}

func parseContact(b []byte) (contactRow, error) {
	r := reader{b: b}
	r.version()
	c := contactRow{state: contactState(r.u8()), initiator: r.flag(), created: r.time(), lastHeard: r.time(), voucher: r.key32(),
		stores: r.stores(), serial: r.uvarint(), told: r.stores(), peerNext: r.uvarint(), numberKey: r.key32(), promise: r.key32(), number: r.str(32)}
	c.toldSerial, c.linkExpiry = r.uvarint(), r.time()
	c.recoverySecret, c.ownKey = r.key32(), r.key32()
	c.peerKey = slices.Clone(r.bytes(sealed.PublicKeySize))
	c.recovered = r.time()
	rescued := r.uvarint()
	c.rescued, c.unsent, c.unsentMessages, c.introducer = uint32(rescued), r.uvarint(), r.uvarint(), r.maybeName()
	c.broken = r.uvarint()
	if rescued > math.MaxUint32 || len(c.peerKey) != 0 && len(c.peerKey) != sealed.PublicKeySize {
		r.bad = true
	}
	if c.state != contactActive {
		r.bad = true
	}
	return c, r.end()
}

// streamsRow is the streams' state with what must change in the same write.
func streamsRow(p ratchet.Pair, ackSent [32]byte) []byte {
	w := writer{}
	w.u8(rowVersion)
	w.bytes(p.Marshal())
	w.raw(ackSent[:])
	return w.b
}

func parseStreams(b []byte) (p ratchet.Pair, ackSent [32]byte, err error) {
	r := reader{b: b}
	r.version()
	state := r.bytes(ratchet.MaxPairSize)
	ackSent = r.key32()
	if err := r.end(); err != nil {
		return p, ackSent, err
	}
	p, err = ratchet.ParsePair(state)
	return p, ackSent, err
}

// fetchable tells whether more may be taken in from the contact: what waits to be worked off is bounded.
func (c *contact) fetchable() bool { return c.inbox < maxInbox && c.bytes < maxHeld }

// newContact is an empty one.
func newContact(name onionid.Name, row contactRow) *contact {
	return &contact{name: name, contactRow: row, boxes: map[boxAt]*box{}, mapped: map[uint32]uint64{}, partial: map[[16]byte]*assembly{},
		wants: map[wantKey]*want{}, given: map[onionid.Name]bool{}, tokens: map[tokensOf]int{}, left: map[tokensOf]*leftBox{}}
}

// load reads all rows. Each table is read in one pass; box bytes stay on the disk.
func (e *Engine) load() error {
	now := time.Now()
	err := e.kv.View(func(r store.Reader) error {
		if err := scan(r, tableContact, func(k *store.KeyReader, v []byte) error {
			name := onionid.Name(k.String())
			row, err := parseContact(v)
			if err != nil || k.Err() != nil {
				return errors.Join(err, k.Err())
			}
			e.contacts[name] = newContact(name, row)
			return nil
		}); err != nil {
			return err
		}
		for _, c := range e.contacts {
			if err := e.loadContact(r, c, now); err != nil {
				return err
			}
		}
		if err := e.loadGuards(r); err != nil {
			return err
		}
		return errors.Join(e.loadFirstContacts(r), e.loadStrangers(r), e.loadWallet(r), e.loadLinkPurses(r))
	})
	if err != nil {
		return err
	}
	if err := e.loadDraining(now); err != nil {
		return err
	}
	e.setPeers()
	e.reroute()
	if err := e.kv.View(e.loadHealth); err != nil {
		return err
	}
	if err := e.beginRecoveries(now); err != nil {
		return err
	}
	for _, c := range e.contacts {
		e.expect(c)
		e.expectRecovery(c, now)
		// Acknowledgements that waited when the node went down.
		if c.ackSent != acks(c.head()) {
			c.ackDue = now.Add(e.exp(e.profile.Load().AckDelay))
		}
		c.headsDue = now.Add(e.exp(e.profile.Load().Heads))
	}
	var stale [][]byte
	if err := e.kv.View(func(r store.Reader) error { return e.loadDepots(r, &stale) }); err != nil {
		return err
	}
	for some := range slices.Chunk(stale, 1000) {
		if err := e.kv.Update(func(txn store.Txn) error {
			for _, k := range some {
				if err := txn.Delete(k); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if err := e.loadLies(); err != nil {
		return err
	}
	return e.tellStores(now)
}

func (e *Engine) loadContact(r store.Reader, c *contact, now time.Time) error {
	peer := string(c.name)
	b, err := r.Get(store.Key(tableStreams, peer))
	if err != nil {
		return fmt.Errorf("streams: %w", err)
	}
	if c.pair, c.ackSent, err = parseStreams(b); err != nil {
		return fmt.Errorf("streams: %w", err)
	}
	switch b, err := r.Get(store.Key(tableRecovery, peer)); {
	case err == nil:
		if c.recovery, err = parseRecovery(b); err != nil {
			return fmt.Errorf("recovery: %w", err)
		}
		c.recovery.box.due = now
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	if err := scanOf(r, tableBoxMeta, peer, func(k *store.KeyReader, v []byte) error {
		epoch, index := k.Uint64(), k.Uint64()
		bx, err := parseBox(v)
		if err != nil || k.Err() != nil || epoch > uint64(c.pair.Epoch()) {
			return errors.Join(ErrRow, err, k.Err())
		}
		bx.boxAt, bx.due = boxAt{uint32(epoch), index}, now
		c.boxes[bx.boxAt] = bx
		return nil
	}); err != nil {
		return err
	}
	if err := scanOf(r, tableFragment, peer, func(*store.KeyReader, []byte) error { c.fragments++; return nil }); err != nil {
		return err
	}
	if err := scanOf(r, tableInbox, peer, func(*store.KeyReader, []byte) error { c.inbox++; return nil }); err != nil {
		return err
	}
	if err := loadPartial(r, c); err != nil {
		return err
	}
	if err := errors.Join(c.loadTokens(r), c.loadLeft(r), c.loadSources(r), c.loadSigns(r), c.loadIntroducer(r), c.loadUnneeded(r)); err != nil {
		return err
	}
	if _, err := r.Get(store.Key(tableCut, peer)); err == nil {
		c.cut = true
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err := scanOf(r, tableGiven, peer, func(k *store.KeyReader, _ []byte) error {
		c.given[onionid.Name(k.String())] = true
		return k.Err()
	}); err != nil {
		return err
	}
	return scanOf(r, tableWant, peer, func(k *store.KeyReader, v []byte) error {
		w, err := parseWant(v)
		if err != nil {
			return err
		}
		w.due = now
		c.wants[w.wantKey] = w
		return nil
	})
}

// scan reads a whole table; the key reader stands at the first part.
func scan(r store.Reader, table byte, fn func(*store.KeyReader, []byte) error) error {
	return r.Scan([]byte{table}, nil, func(k, v []byte) (bool, error) {
		if err := fn(store.ReadKey(k), v); err != nil {
			return false, fmt.Errorf("table %#x: %w", table, err)
		}
		return true, nil
	})
}

// scanOf reads one contact's rows of a table; the key reader stands after the contact's name.
func scanOf(r store.Reader, table byte, peer string, fn func(*store.KeyReader, []byte) error) error {
	return r.Scan(store.Key(table, peer), nil, func(k, v []byte) (bool, error) {
		kr := store.ReadKey(k)
		_ = kr.String()
		if err := fn(kr, v); err != nil {
			return false, fmt.Errorf("table %#x: %w", table, err)
		}
		return true, nil
	})
}

// contactTables are those whose keys begin with a contact's name.
var contactTables = []byte{tableContact, tableStreams, tableRecovery, tableBoxMeta, tableBox, tableItem, tableFragment,
	tableInbox, tableAssembly, tableGiven, tableWant, tableTokens, tableLeft, tableCut, tableTold, tableHanded, tableSources, tableToldSources, tableSigns, tableIntroducer, tableUnneeded}

// erase deletes all rows of a contact but its outbox and what was received and not worked off yet (keepInbox).
func erase(txn store.Txn, name onionid.Name, keepInbox bool) error {
	for _, t := range contactTables {
		if keepInbox && (t == tableInbox || t == tableAssembly) {
			continue
		}
		if err := eraseOf(txn, t, string(name)); err != nil {
			return err
		}
	}
	return nil
}

func eraseOf(txn store.Txn, table byte, peer string) error {
	return txn.Scan(store.Key(table, peer), nil, func(k, _ []byte) (bool, error) {
		return true, txn.Delete(append([]byte(nil), k...))
	})
}
