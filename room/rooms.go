// SPDX-License-Identifier: Apache-2.0

package room

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/store"
)

// Options of a node's rooms.
type Options struct {
	Signer      matrix.Signer
	Certificate onionid.Certificate                                 // of Signer's key; goes along with snapshots
	Profile     func(matrix.UserID) (displayName, avatarURL string) // of local users, for their member events; may be nil
	Exists      func(matrix.UserID) bool                            // whether a local user exists; nil: all do. Invites for others are refused
	// EncodeReceipts makes a receipts record for another node (package bundle's form, without the type byte), or nothing if they have none; nil:
	// receipts stay on this node. room cannot import bundle.
	EncodeReceipts func(matrix.RoomID, []Receipt) []byte
	// Seed of the lots by which events of big rooms are given to some servers; zero: drawn from crypto/rand. Fixed in tests.
	Seed [32]byte
	// Older bounds what is fetched of a room's past; zero: nothing is.
	Older Older
}

// Older says how much of what was before a snapshot is fetched from other nodes (older.go).
type Older struct {
	Ahead int // events that are fetched before anybody asks for them, after each snapshot
	Most  int // events in all, of each snapshot's past; at most 50,000
}

// maxOlder bounds Older.Most, by the places that there are.
const maxOlder = 50_000

// receiptsRecord is the type byte of a receipts record in the outbox: bundle.TypeReceipts.
const receiptsRecord = 6

// Rooms is the one writer of room data. Safe for concurrent use; one lock a room.
type Rooms struct {
	kv     store.KV
	stream *store.Stream
	o      Options
	start  store.Pos // the stream's position when the process began
	seed   [32]byte  // Options.Seed, or a random one
	peers  atomic.Pointer[map[matrix.ServerName]Peer]

	changes atomic.Uint64 // how often rows of events were changed; see snapshot
	// memberships counts changes of members; see Memberships.
	memberships atomic.Uint64
	events      *cache[eventID, *held]
	states      *cache[stateID, chained]
	certs       *cache[string, onionid.Certificate]
	unread      *cache[unreadKey, *unread]

	mu       sync.Mutex // guards live and numbered, for moments (and while a new room gets its number)
	live     map[matrix.RoomID]*live
	numbered map[uint32]*live

	typing typing

	aclMu sync.Mutex // guards acls, for moments
	acls  map[matrix.EventID]*acl

	// askMu guards what is asked for and what contacts ask (asking.go, answering.go), and the rows of it. Held over an Update, never over a room's lock.
	askMu   sync.Mutex
	seeking []*seeking
	askers  map[matrix.ServerName]*asker
	lookups lookups
	older   older
	arrived func(matrix.UserID, matrix.RoomID) // set before anything runs
}

// live is a room that was used since the process began.
type live struct {
	n  uint32
	id matrix.RoomID

	// last is the newest stream position with something of this room, or a greater one. It is set before the
	// transaction that it belongs to becomes visible, so that Sync never passes over a room that has something new.
	last     atomic.Uint64
	receipts atomic.Uint64 // the same for receipts
	bump     atomic.Uint64 // the seq of roomRow.bump, likewise
	facts    atomic.Pointer[stateFacts]

	queue queue // sends that wait for lock

	lock   sync.Mutex // held by the room's one writer until its transaction is durable
	row    *roomRow   // under lock; nil: not read yet, or a transaction failed
	census *census    // under lock; nil likewise

	ways      map[matrix.ServerName]int // under lock: see plan.ways; counted for these:
	waysPeers *map[matrix.ServerName]Peer
	waysShape int
	tally     atomic.Pointer[tally]
}

// Open reads the schema; it starts nothing.
func Open(kv store.KV, stream *store.Stream, o Options) (*Rooms, error) {
	if len(o.Signer.Key) != ed25519.PrivateKeySize || o.Signer.Server == "" {
		return nil, errors.New("opening the rooms: no signing key")
	}
	r := &Rooms{
		kv: kv, stream: stream, o: o, start: stream.Current(),
		events: newCache[eventID, *held](eventCache),
		states: newCache[stateID, chained](stateCache), certs: newCache[string, onionid.Certificate](certCache),
		unread: newCache[unreadKey, *unread](unreadCache),
		live:   map[matrix.RoomID]*live{}, numbered: map[uint32]*live{}, askers: map[matrix.ServerName]*asker{},
	}
	r.o.Older.Most = min(r.o.Older.Most, maxOlder)
	if err := errors.Join(r.loadSeeking(), r.loadGaps()); err != nil {
		return nil, fmt.Errorf("opening the rooms: %w", err)
	}
	if r.seed = o.Seed; r.seed == [32]byte{} {
		rand.Read(r.seed[:]) // never fails
	}
	r.typing.r = r
	r.typing.rooms = map[matrix.RoomID]*typists{}
	if o.Certificate.Server != "" {
		if o.Certificate.Server != o.Signer.Server || o.Certificate.KeyID != o.Signer.KeyID {
			return nil, errors.New("opening the rooms: the certificate is not of the signing key")
		}
		if err := r.AddCertificate(o.Certificate); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// server is this node's name.
func (r *Rooms) server() matrix.ServerName { return r.o.Signer.Server }

// local says whether a user is of this node.
func (r *Rooms) local(u matrix.UserID) bool { return serverOf(u) == r.server() }

// serverOf is the server part of a user id that was checked; "" if there is none.
func serverOf(u matrix.UserID) matrix.ServerName {
	if i := strings.IndexByte(string(u), ':'); i >= 0 {
		return matrix.ServerName(u[i+1:])
	}
	return ""
}

// number finds a room's number. ErrUnknownRoom.
func (r *Rooms) number(rd store.Reader, room matrix.RoomID) (uint32, error) {
	r.mu.Lock()
	l := r.live[room]
	r.mu.Unlock()
	if l != nil {
		return l.n, nil
	}
	if len(room) == 0 || len(room) > matrix.MaxID {
		return 0, ErrUnknownRoom
	}
	v, err := rd.Get(numberKey(room))
	if errors.Is(err, store.ErrNotFound) {
		return 0, ErrUnknownRoom
	}
	if err != nil {
		return 0, fmt.Errorf("looking up a room: %w", err)
	}
	if len(v) != 4 {
		return 0, fmt.Errorf("%w: number", errRow)
	}
	return binary.BigEndian.Uint32(v), nil
}

// get is the live form of a room that the node knows. ErrUnknownRoom.
func (r *Rooms) get(room matrix.RoomID) (*live, error) {
	r.mu.Lock()
	l := r.live[room]
	r.mu.Unlock()
	if l != nil {
		return l, nil
	}
	var q *reading
	var receipts store.Pos
	err := r.view(func(rd snapshot) (err error) {
		if q, err = r.open(rd, room); err != nil {
			return err
		}
		receipts, err = q.lastReceipt()
		return err
	})
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.live[room]; l != nil {
		return l, nil
	}
	l = &live{n: q.n, id: room}
	// What was committed since that snapshot was committed through a live form; there was none, so nothing was.
	l.last.Store(uint64(q.row.last.pos()))
	l.receipts.Store(uint64(receipts))
	l.bump.Store(uint64(q.row.bump))
	r.live[room], r.numbered[l.n] = l, l
	return l, nil
}

// make gives a room that may be unknown a number. A crash after it leaves a number without a room: harmless.
func (r *Rooms) make(room matrix.RoomID) (*live, error) {
	if l, err := r.get(room); !errors.Is(err, ErrUnknownRoom) {
		return l, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.live[room]; l != nil {
		return l, nil
	}
	var n uint32
	err := r.kv.Update(func(txn store.Txn) error {
		v, err := txn.Get(numberKey(room))
		if err == nil && len(v) == 4 { // from before a crash
			n = binary.BigEndian.Uint32(v)
			return nil
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		n = 1
		if v, err = txn.Get(counterKey()); err == nil && len(v) == 4 {
			n = binary.BigEndian.Uint32(v) + 1
		} else if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		b := binary.BigEndian.AppendUint32(nil, n)
		if err := txn.Set(counterKey(), b); err != nil {
			return err
		}
		return txn.Set(numberKey(room), b)
	})
	if err != nil {
		return nil, fmt.Errorf("numbering a room: %w", err)
	}
	l := &live{n: n, id: room}
	r.live[room], r.numbered[n] = l, l
	return l, nil
}
