// SPDX-License-Identifier: Apache-2.0

package room

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"unicode"
	"unicode/utf8"

	"tarn/matrix"
	"tarn/store"
)

// The index of words of what can be read here: messages, names and topics of rooms that are not encrypted (C-S API,
// "Server Side Search"). Its rows are written with the event and go with its redaction. What is sent encrypted is not
// in it, and cannot be.

// Bounds of the index and of one search.
const (
	maxWord     = 40     // bytes of a word; what is longer is cut, in the question too
	maxWords    = 64     // different words of one event
	maxTerms    = 16     // of a question
	maxHits     = 500    // the newest are found; ranks are among them
	maxPostings = 20_000 // rows looked at for one question
)

func wordPrefix(n uint32, word string) []byte {
	return append(append(key(tabWord, n, len(word)+9), word...), 0)
}
func wordKey(n uint32, word string, s seq) []byte {
	return binary.BigEndian.AppendUint64(wordPrefix(n, word), uint64(s))
}

// unspaced are scripts that are written without spaces: each character counts as a word.
var unspaced = []*unicode.RangeTable{unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar}

// words splits a text into what is searched for, in lower case; fn may end it.
func words(text string, fn func(string) bool) {
	var b []byte
	flush := func() bool {
		if len(b) == 0 {
			return true
		}
		w := string(b)
		b = b[:0]
		return fn(w)
	}
	for _, r := range text {
		switch {
		case unicode.In(r, unspaced...):
			if !flush() || !fn(string(r)) {
				return
			}
		case unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r):
			if r = unicode.ToLower(r); len(b)+utf8.RuneLen(r) <= maxWord && r != 0 {
				b = utf8.AppendRune(b, r)
			}
		default:
			if !flush() {
				return
			}
		}
	}
	flush()
}

// distinct are the different words of a text, at most n.
func distinct(text string, n int) []string {
	var out []string
	words(text, func(w string) bool {
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
		return len(out) < n
	})
	return out
}

// readable is the text of an event that may be searched, and its name in a question's keys.
func readable(ev *matrix.Event) (text, name string) {
	switch {
	case ev.Type() == matrix.TypeMessage && ev.StateKey() == nil:
		if rel, _ := ev.Relation(); rel == matrix.RelReplace {
			var c struct {
				New struct {
					Body string `json:"body"`
				} `json:"m.new_content"`
			}
			if json.Unmarshal(ev.Content(), &c) == nil && c.New.Body != "" {
				return c.New.Body, "content.body"
			}
		}
		return ev.ContentString("body"), "content.body"
	case ev.Is(matrix.TypeName, ""):
		return ev.ContentString("name"), "content.name"
	case ev.Is(matrix.TypeTopic, ""):
		return ev.ContentString("topic"), "content.topic"
	}
	return "", ""
}

// index writes an event's words.
func (p *plan) index(w *writer, e *held) {
	if text, _ := readable(e.ev); text != "" && !e.redacted {
		for _, word := range distinct(text, maxWords) {
			w.set(wordKey(p.n, word, e.place), nil)
		}
	}
}

// unindex takes them back.
func (p *plan) unindex(w *writer, e *held) {
	if text, _ := readable(e.ev); text != "" {
		for _, word := range distinct(text, maxWords) {
			w.delete(wordKey(p.n, word, e.place))
		}
	}
}

// Question is a search.
type Question struct {
	Term   string
	Keys   []string        // content.body, content.name, content.topic; none: all
	Rooms  []matrix.RoomID // nil: all that the user is or was in
	Before store.Pos       // a cut: what came after it is not found
	Keep   func(Entry) bool
	Device matrix.DeviceID
}

// Hit is an event that a question found.
type Hit struct {
	Entry
	Rank float64 // more is better: how much of the text is what was asked for
}

// Terms are the words that a question asks for: an event must have all of them.
func (q *Question) Terms() []string { return distinct(q.Term, maxTerms) }

// Search finds the newest events with all the words of a question, as far as the user may see them: at most 500, the newest first.
func (r *Rooms) Search(user matrix.UserID, o Question) ([]Hit, error) {
	terms := o.Terms()
	if len(terms) == 0 {
		return nil, nil
	}
	// The longest is probably the rarest.
	slices.SortStableFunc(terms, func(a, b string) int { return len(b) - len(a) })
	type found struct {
		Hit
		place seq
	}
	var hits []found
	left := maxPostings
	err := r.view(func(rd snapshot) error {
		rows, err := userRows(rd, user)
		if err != nil {
			return err
		}
		for _, x := range rows {
			switch x.row.membership {
			case matrix.MemberJoin, matrix.MemberLeave, matrix.MemberBan:
			default:
				continue
			}
			if x.row.forgotten {
				continue
			}
			q, err := r.openNumber(rd, x.n)
			if err != nil {
				return err
			}
			if o.Rooms != nil && !slices.Contains(o.Rooms, q.row.id) {
				continue
			}
			y, err := q.look(user)
			if err != nil {
				return err
			}
			n := 0
			if err := y.search(terms, cut(o.Before), &left, func(e placed) (bool, error) {
				text, name := readable(e.ev)
				if len(o.Keys) > 0 && !slices.Contains(o.Keys, name) {
					return true, nil
				}
				entry, err := y.entry(e, o.Device)
				if err != nil {
					return false, err
				}
				if o.Keep != nil {
					entry.look = &looking{y: y, e: e}
					if !o.Keep(entry) {
						return true, nil
					}
					entry.look = nil
				}
				hits = append(hits, found{Hit{entry, rank(text, terms)}, e.place})
				n++
				return n < maxHits, nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(hits, func(a, b found) int { return cmp.Compare(b.place, a.place) })
	out := make([]Hit, 0, min(len(hits), maxHits))
	for _, h := range hits[:min(len(hits), maxHits)] {
		out = append(out, h.Hit)
	}
	return out, nil
}

// search walks the rows of the first word back from a place, and calls fn with the events that have all of them.
func (y *eyes) search(terms []string, from seq, left *int, fn func(placed) (bool, error)) error {
	q := y.q
	prefix := wordPrefix(q.n, terms[0])
	return q.rd.ScanBack(prefix, wordKey(q.n, terms[0], from), func(k, _ []byte) (bool, error) {
		if *left--; *left < 0 {
			return false, nil
		}
		if len(k) != len(prefix)+8 {
			return false, fmt.Errorf("%w: word", errRow)
		}
		place := seqFromKey(k)
		for _, w := range terms[1:] {
			if _, err := q.rd.Get(wordKey(q.n, w, place)); isNotFound(err) {
				return true, nil
			} else if err != nil {
				return false, err
			}
		}
		v, err := q.rd.Get(timelineKey(q.n, place))
		if err != nil || len(v) != len(hash{}) {
			return false, fmt.Errorf("%w: word", errRow)
		}
		h := hash(v)
		e, err := q.held(h)
		if err != nil || e == nil || e.redacted {
			return true, err
		}
		if ok, err := y.sees(e); err != nil || !ok {
			return true, err
		}
		return fn(placed{e, h})
	})
}

// rank is the part of a text that is what was asked for.
func rank(text string, terms []string) float64 {
	all, asked := 0, 0
	words(text, func(w string) bool {
		all++
		if slices.Contains(terms, w) {
			asked++
		}
		return all < 10_000
	})
	if all == 0 {
		return 0
	}
	return float64(asked) / float64(all)
}

// Around reads an event, and up to so many before and after it that keep keeps (nil: all).
func (r *Rooms) Around(user matrix.UserID, room matrix.RoomID, id matrix.EventID, nBefore, nAfter int, keep func(Entry) bool) (before, after Page, ev Entry, err error) {
	err = r.read(room, func(q *reading) error {
		y, err := q.look(user)
		if err != nil {
			return err
		}
		before, after, ev, err = y.around(id, nBefore, func(int) int { return nAfter }, keep)
		return err
	})
	return before, after, ev, err
}

func (y *eyes) around(id matrix.EventID, nBefore int, nAfter func(before int) int, keep func(Entry) bool) (before, after Page, ev Entry, err error) {
	e, err := y.find(id)
	if err != nil {
		return before, after, ev, err
	}
	if !e.shown {
		return before, after, ev, ErrUnknownEvent
	}
	if ev, err = y.entry(e, ""); err != nil {
		return before, after, ev, err
	}
	before, after = Page{Start: (e.place - 1).token(), End: (e.place - 1).token()}, Page{Start: e.place.token(), End: e.place.token()}
	if nBefore > 0 {
		if before, err = y.page(e.place-1, true, nBefore, keep); err != nil {
			return before, after, ev, err
		}
	}
	if n := nAfter(len(before.Events)); n > 0 {
		after, err = y.page(e.place, false, n, keep)
	}
	return before, after, ev, err
}

// SenderProfile is a member's name and picture as the room has them; empty if it does not.
func (r *Rooms) SenderProfile(user matrix.UserID, room matrix.RoomID, of matrix.UserID) (name, avatar string) {
	ev, err := r.StateEvent(user, room, matrix.StateKey{Type: matrix.TypeMember, Key: string(of)})
	if err != nil {
		return "", ""
	}
	return textOf(ev, "displayname"), textOf(ev, "avatar_url")
}
