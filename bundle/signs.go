// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"time"

	"tarn/matrix"
)

// Limits of signs of life.
const (
	MaxPresent = 64      // users in one record
	MaxTypists = 64      // likewise
	maxStatus  = 1 << 10 // bytes of a user's status message
)

// Signs is a TypeSigns record: which of its sender's users are there, and who of them types. It is the whole of it: who is not named is not there.
type Signs struct {
	Serial  uint64    // grows from record to record; not 0
	Good    time.Time // until when Present holds, to the millisecond
	Present []Present
	Typing  []Typist
}

// Present is a user who is there, or left a word.
type Present struct {
	User   matrix.UserID
	State  State
	Active time.Time // when the user last did something, to the millisecond; 1970: it is not said
	Status string    // for people; may be empty
}

// Typist is a user who types in a room.
type Typist struct {
	Room  matrix.RoomID
	User  matrix.UserID
	Until time.Time // to the millisecond
}

// State of a user, as Matrix has it.
type State byte

// The states.
const (
	Online      State = 1
	Unavailable State = 2
	Offline     State = 3
)

// Record encodes it: serial, good; of each present user id, state, active, status; of each typist room, user id, until. Times are milliseconds
// since 1970. ErrTooLarge or ErrMalformed if ParseSigns would refuse it.
func (s Signs) Record() (Record, error) {
	var w writer
	w.serial(s.Serial)
	w.time(s.Good)
	w.number(uint64(len(s.Present)), MaxPresent, "users")
	for _, p := range s.Present {
		w.id(string(p.User), '@', "user id")
		w.b = append(w.b, byte(p.State))
		if p.State < Online || p.State > Offline {
			w.fail(ErrMalformed, "state")
		}
		w.time(p.Active)
		w.text(p.Status, maxStatus, "status")
	}
	w.number(uint64(len(s.Typing)), MaxTypists, "typists")
	for _, t := range s.Typing {
		w.room(t.Room)
		w.id(string(t.User), '@', "user id")
		w.time(t.Until)
	}
	return w.record(TypeSigns, "signs of life")
}

// ParseSigns decodes a TypeSigns record. ErrMalformed, ErrTooLarge.
func ParseSigns(data []byte) (Signs, error) {
	r := &reader{b: data}
	s := Signs{Serial: r.serial(), Good: r.time()}
	// An id of at least two characters, a state, a time, a status.
	for range r.count(MaxPresent, 3+1+1+1, "users") {
		p := Present{User: matrix.UserID(r.id('@', "user id"))}
		if b := r.take(1, "state"); r.err == nil {
			p.State = State(b[0])
		}
		if r.err == nil && (p.State < Online || p.State > Offline) {
			r.fail(ErrMalformed, "state")
		}
		p.Active, p.Status = r.time(), r.text(maxStatus, "status")
		s.Present = append(s.Present, p)
	}
	for range r.count(MaxTypists, 3+3+1, "typists") {
		s.Typing = append(s.Typing, Typist{r.room(), matrix.UserID(r.id('@', "user id")), r.time()})
	}
	if err := r.end("signs of life"); err != nil {
		return Signs{}, err
	}
	return s, nil
}

func (w *writer) time(t time.Time) { w.number(uint64(t.UnixMilli()), maxMillis, "time") }
func (r *reader) time() time.Time  { return time.UnixMilli(int64(r.number(maxMillis, "time"))) }
