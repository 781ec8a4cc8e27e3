// SPDX-License-Identifier: Apache-2.0

package room

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// Fetching what is older than a snapshot. A gap (gaps.go) is filled in pages: a member's node is asked for the events that are missing, and what is before
// them; the answer has their states too (olderfill.go, olderpages.go). Some events are fetched as soon as the gap is there, more when a client
// pages near its edge; the client is answered from what is here. What is asked goes into the outbox at a time that has nothing to do with the client's
// (Tend), and the answer comes in what nobody else needs of the other's slots.
//
// What is under way is in memory alone: after a restart it is asked anew, and an answer to what was asked before is nothing.

// Bounds of asking for what is older. The first three are SPEC §8.16's.
const (
	olderPage     = 200            // events asked for at once
	olderBytes    = 256 << 10      // bytes of them in an answer
	maxOlderHave  = 20             // names of states in a question
	olderAsked    = 50             // events named as missing in a question
	olderPatience = 5              // times the pace of other questions: answers are long, and go behind all else
	olderRest     = 24 * time.Hour // at most, after all were asked; at first as long as one has for an answer, then twice as long each time
	olderRounds   = 2              // so often all said no: it is believed
	olderRooms    = 8              // rooms at once
	olderNear     = 100            // a client that is so many events from the edge wants more
)

// older is what is known of gaps in memory.
type older struct {
	mu    sync.Mutex // for moments; taken under a room's lock too
	rooms map[uint32]*olderRoom
	lied  map[matrix.ServerName]time.Time // who told lately what can not be true, and when
	wake  chan struct{}                   // closed, and made anew, when something came, or will not come
}

// olderRoom is the newest gap of a room that is open.
type olderRoom struct {
	room   matrix.RoomID
	gap    gap
	want   int // events that clients asked for
	flight *flight
	begin  time.Time // nobody is asked before: our join has to be there first
	rest   time.Time // all were asked: nobody is asked before
	pause  time.Duration
	rounds int               // in which all said no
	good   matrix.ServerName // gave the last page
}

// flight is a question that stands. It is the same for all who are asked.
type flight struct {
	id      AskID
	asked   []matrix.ServerName // any of these may answer
	round   []matrix.ServerName // those of them that were asked since the last rest
	refused []matrix.ServerName // those of them that said no
	next    time.Time           // then another is asked
}

// loadGaps reads which rooms have gaps.
func (r *Rooms) loadGaps() error {
	r.older.rooms, r.older.lied, r.older.wake = map[uint32]*olderRoom{}, map[matrix.ServerName]time.Time{}, make(chan struct{})
	return r.view(func(rd snapshot) error {
		numbers := map[uint32]bool{}
		err := rd.Scan([]byte{tabAsking, 'p'}, nil, func(k, _ []byte) (bool, error) {
			if len(k) != 2+4+8 {
				return false, fmt.Errorf("%w: gap", errRow)
			}
			numbers[binary.BigEndian.Uint32(k[2:])] = true
			return true, nil
		})
		for n := range numbers {
			if err != nil {
				return err
			}
			var q *reading
			if q, err = r.openNumber(rd, n); err == nil {
				r.noteGaps(n, &q.row)
			}
		}
		return err
	})
}

// noteGaps remembers a room's newest open gap.
func (r *Rooms) noteGaps(n uint32, row *roomRow) {
	r.older.mu.Lock()
	defer r.older.mu.Unlock()
	open := slices.DeleteFunc(slices.Clone(row.gaps), func(g gap) bool { return g.count >= r.o.Older.Most })
	if len(open) == 0 {
		delete(r.older.rooms, n)
		return
	}
	newest := open[len(open)-1]
	o := r.older.rooms[n]
	if o == nil || o.gap.top != newest.top {
		o = &olderRoom{room: row.id}
		r.older.rooms[n] = o
	}
	o.gap = newest
}

// Older is closed when something older has come, or it has turned out that nothing will: who reads before and finds nothing looks again then.
func (r *Rooms) Older() <-chan struct{} {
	r.older.mu.Lock()
	defer r.older.mu.Unlock()
	return r.older.wake
}

// awake is the caller's with mu.
func (o *older) awake() {
	close(o.wake)
	o.wake = make(chan struct{})
}

// wanted: a client is near the edge of a gap. It says whether more may come.
func (r *Rooms) wanted(n uint32, now time.Time) bool {
	r.older.mu.Lock()
	defer r.older.mu.Unlock()
	o := r.older.rooms[n]
	if o == nil {
		return false
	}
	o.want = max(o.want, o.gap.count+olderPage)
	return !o.hopeless(now)
}

// resting: of those who were asked nobody answered.
func (r *Rooms) resting(n uint32, now time.Time) bool {
	r.older.mu.Lock()
	defer r.older.mu.Unlock()
	o := r.older.rooms[n]
	return o != nil && now.Before(o.rest)
}

// hopeless: all who could be asked said no, more than once, or there is nobody.
func (o *olderRoom) hopeless(now time.Time) bool {
	return now.Before(o.rest) && o.rounds >= olderRounds
}

// tendOlder asks, where something is wanted and nobody is asked, or who was asked says nothing. It is called by Tend alone.
func (r *Rooms) tendOlder(now time.Time, pace time.Duration) error {
	var due []uint32
	r.older.mu.Lock()
	flying := 0
	for _, o := range r.older.rooms {
		if o.flight != nil && !now.Before(o.rest) {
			flying++
		}
	}
	for n, o := range r.older.rooms {
		if o.begin.IsZero() {
			o.begin = now.Add(pace)
		}
		wants := o.want
		if !o.gap.hidden { // else no more, unless a client wants it
			wants = max(wants, r.o.Older.Ahead)
		}
		switch {
		case now.Before(o.rest), now.Before(o.begin):
		case o.flight != nil && now.Before(o.flight.next):
		case o.flight == nil && (o.gap.count >= min(wants, r.o.Older.Most) || flying >= olderRooms):
		default:
			if due = append(due, n); o.flight == nil {
				flying++
			}
		}
	}
	r.older.mu.Unlock()
	for _, n := range due {
		if err := r.askOlder(n, now, pace); err != nil {
			return err
		}
	}
	return nil
}

// askOlder asks the next server that may have what is missing.
func (r *Rooms) askOlder(n uint32, now time.Time, pace time.Duration) error {
	r.older.mu.Lock()
	o := r.older.rooms[n]
	if o == nil {
		r.older.mu.Unlock()
		return nil
	}
	top, good := o.gap.top, o.good
	f := o.flight
	if f == nil {
		f = &flight{}
		rand.Read(f.id[:]) // never fails
	}
	asked := slices.Clone(f.round)
	r.older.mu.Unlock()

	var row gapRow
	var to matrix.ServerName
	err := r.view(func(rd snapshot) error {
		q, err := r.openNumber(rd, n)
		if err != nil || !q.row.active {
			return err
		}
		if row, err = q.gapRowOf(top); err != nil {
			return err
		}
		t, err := q.tallyOf()
		if err != nil {
			return err
		}
		to = r.nextOlder(f.id, t.remotes, asked, good, now)
		return nil
	})
	if isNotFound(err) {
		return nil // filled meanwhile
	}
	if err == nil && to != "" {
		q := Ask{ID: f.id, Kind: AskOlder, Room: o.room, Missing: row.Missing[:min(len(row.Missing), olderAsked)], Have: row.Have, Most: olderPage}
		err = r.kv.Update(func(txn store.Txn) error { return store.Enqueue(txn, string(to), store.ItemQuestion, object(q)) })
	}
	if err != nil {
		return fmt.Errorf("asking for what is older: %w", err)
	}
	r.older.mu.Lock()
	defer r.older.mu.Unlock()
	if r.older.rooms[n] != o || o.gap.top != top || o.flight != nil && o.flight != f {
		return nil
	}
	o.flight = f
	if to != "" {
		if f.round, f.next = append(f.round, to), now.Add(olderPatience*pace); !slices.Contains(f.asked, to) {
			f.asked = append(f.asked, to)
		}
		return nil
	}
	// All were asked. After a rest they are asked again; who has not said no may still answer until then.
	o.pause = min(max(olderPatience*pace, 2*o.pause), olderRest)
	o.rest = now.Add(o.pause)
	silent := slices.ContainsFunc(f.round, func(s matrix.ServerName) bool { return !slices.Contains(f.refused, s) })
	f.round, f.refused = nil, nil
	if silent {
		o.rounds = 0
		return nil
	}
	o.flight = nil
	if o.rounds++; o.rounds == olderRounds {
		r.older.awake()
	}
	return nil
}

// nextOlder is a contact in the room that was not asked: who gave the last page, else one by lot. Who told what can not be is not asked for a day.
func (r *Rooms) nextOlder(id AskID, remotes, asked []matrix.ServerName, good matrix.ServerName, now time.Time) matrix.ServerName {
	all := slices.Clone(r.contacts(remotes))
	r.older.mu.Lock()
	all = slices.DeleteFunc(all, func(s matrix.ServerName) bool {
		at, lied := r.older.lied[s]
		return slices.Contains(asked, s) || s == r.server() || lied && now.Sub(at) < 24*time.Hour
	})
	r.older.mu.Unlock()
	if len(all) == 0 {
		return ""
	}
	lot := func(s matrix.ServerName) []byte {
		sum := sha256.Sum256(append(id[:len(id):len(id)], s...))
		return sum[:]
	}
	if slices.Contains(all, good) {
		return good
	}
	return slices.MinFunc(all, func(a, b matrix.ServerName) int { return bytes.Compare(lot(a), lot(b)) })
}

// olderAnswered takes an answer to a question for what is older; false: it is to something else.
func (r *Rooms) olderAnswered(ctx context.Context, from matrix.ServerName, a Answer) (bool, error) {
	r.older.mu.Lock()
	var n uint32
	var o *olderRoom
	for m, x := range r.older.rooms {
		if x.flight != nil && x.flight.id == a.ID && slices.Contains(x.flight.asked, from) {
			n, o = m, x
		}
	}
	if o == nil {
		r.older.mu.Unlock()
		return false, nil
	}
	f, top := o.flight, o.gap.top
	r.older.mu.Unlock()
	came, err := 0, error(nil)
	if a.Kind == AnswerOlder && a.Older != nil {
		came, err = r.fill(ctx, from, o.room, top, a.Older)
	}
	lied := errors.Is(err, ErrBadPast)
	if err != nil && !lied {
		return true, err
	}
	r.older.mu.Lock()
	defer r.older.mu.Unlock()
	if lied {
		r.older.lied[from] = time.Now()
	}
	if x := r.older.rooms[n]; x == o && o.flight == f {
		if came > 0 {
			o.flight, o.good, o.rest, o.pause, o.rounds = nil, from, time.Time{}, 0, 0
		} else if !slices.Contains(f.refused, from) {
			f.refused, f.next = append(f.refused, from), time.Time{} // the next one when Tend looks
		}
	}
	if came > 0 {
		r.older.awake()
	}
	return true, err // nil, or that it is not true
}
