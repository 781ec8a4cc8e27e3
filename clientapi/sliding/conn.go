// SPDX-License-Identifier: Apache-2.0

package sliding

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"strconv"
	"strings"
	"sync"

	"tarn/matrix"
	"tarn/store"
)

// ErrUnknownPos: the position is of no connection that is remembered; the client begins anew.
var ErrUnknownPos = errors.New("sliding: unknown position")

// Bounds of memory. A connection costs some 200 bytes a room.
const (
	maxOfUser  = 32
	maxAll     = 512
	maxMembers = 1000 // remembered of a room's lazily sent members; beyond it they are sent again
)

// Sent is what a connection was told of a room. It is a value: never changed, replaced.
type Sent struct {
	Pos                    store.Pos // everything up to it; 0: nothing
	Limit                  int       // the greatest timeline that was asked for
	Wants                  Wants
	Members                map[matrix.UserID]bool // whose member events were sent lazily
	Data, Receipts, Typing store.Pos              // of the extensions
}

// With adds members to those sent.
func (s Sent) With(users []matrix.UserID) Sent {
	if len(users) == 0 {
		return s
	}
	if len(s.Members)+len(users) > maxMembers {
		s.Members = nil
	}
	m := maps.Clone(s.Members)
	if m == nil {
		m = map[matrix.UserID]bool{}
	}
	for _, u := range users {
		m[u] = true
	}
	s.Members = m
	return s
}

// State is what a connection was told by one answer and all before it.
type State struct {
	Since  store.Pos // 0: nothing yet
	Rooms  map[matrix.RoomID]Sent
	Counts map[string]int // of the lists
	n      uint64
}

// Key names a connection.
type Key struct {
	User   matrix.UserID
	Device matrix.DeviceID
	Conn   string
}

// Conns are a server's connections. The zero value is ready; safe for concurrent use.
type Conns struct {
	mu   sync.Mutex // for moments
	all  map[Key]*conn
	tick uint64
}

type conn struct {
	name       string // a random part of its positions: those of another life are not taken for its own
	last, prev State  // last was answered; prev is what its question came from
	n          uint64
	turn       *Turn // the newest question, still to be answered
	used       uint64
}

// Turn is one question of a connection.
type Turn struct {
	State State // what the client has
	over  chan struct{}
	conns *Conns
	key   Key
	conn  *conn
}

// Begin takes a question up. pos "" begins the connection anew. An older question of the same connection that still waits
// is told by Over. ErrUnknownPos.
func (c *Conns) Begin(k Key, pos string) (*Turn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	x := c.all[k]
	if pos == "" {
		if x != nil && x.turn != nil {
			close(x.turn.over)
			x.turn = nil
		}
		var b [8]byte
		rand.Read(b[:]) // never fails
		x = &conn{name: hex.EncodeToString(b[:])}
		c.keep(k, x)
	} else {
		name, digits, _ := strings.Cut(pos, "_")
		n, err := strconv.ParseUint(digits, 10, 64)
		switch {
		case err != nil || x == nil || x.name != name || n == 0:
			return nil, ErrUnknownPos
		case n == x.last.n:
			x.prev = x.last
		case n == x.prev.n: // the last answer was lost
			x.last = x.prev
		default:
			return nil, ErrUnknownPos
		}
		if x.turn != nil {
			close(x.turn.over)
		}
	}
	c.tick++
	x.used = c.tick
	t := &Turn{State: x.last, over: make(chan struct{}), conns: c, key: k, conn: x}
	x.turn = t
	return t, nil
}

// keep puts a connection in place of those least used.
func (c *Conns) keep(k Key, x *conn) {
	if c.all == nil {
		c.all = map[Key]*conn{}
	}
	c.all[k] = x
	ofUser, oldest, oldestOfUser := 0, Key{}, Key{}
	for o, y := range c.all {
		if o == k {
			continue
		}
		if oldest == (Key{}) || y.used < c.all[oldest].used {
			oldest = o
		}
		if o.User == k.User {
			if ofUser++; oldestOfUser == (Key{}) || y.used < c.all[oldestOfUser].used {
				oldestOfUser = o
			}
		}
	}
	switch {
	case ofUser >= maxOfUser:
		delete(c.all, oldestOfUser)
	case len(c.all) > maxAll:
		delete(c.all, oldest)
	}
}

// Over is closed when a newer question of the same connection has come: nobody waits for this answer.
func (t *Turn) Over() <-chan struct{} { return t.over }

// End remembers what was answered and gives its position. Of a question that is over nothing is remembered, and the
// position is the one before.
func (t *Turn) End(s State) string {
	c := t.conns
	c.mu.Lock()
	defer c.mu.Unlock()
	x := t.conn
	if x.turn == t {
		x.turn = nil
		x.n++
		s.n = x.n
		x.prev, x.last = t.State, s
	}
	return x.name + "_" + strconv.FormatUint(x.last.n, 10)
}

// Break ends a question without an answer. It does nothing after End.
func (t *Turn) Break() {
	t.conns.mu.Lock()
	defer t.conns.mu.Unlock()
	if t.conn.turn == t {
		t.conn.turn = nil
	}
}
