// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"tarn/bundle"
	"tarn/matrix"
	"tarn/room"
)

// TestWhenSignsAreDue: what was not told, what ended before it was told to, and what holds no more when the next record could come; nothing twice.
func TestWhenSignsAreDue(t *testing.T) {
	now := time.UnixMilli(1764000000000)
	const good = 10 * time.Minute
	here := func(state, status string) []room.Present {
		return []room.Present{{User: "@a:b", State: state, Status: status}}
	}
	types := func(left time.Duration) []room.Typist {
		return []room.Typist{{Room: "!r", User: "@a:b", Until: now.Add(left)}}
	}
	for what, c := range map[string]struct {
		off       bool
		now, told room.Signs
		due       bool
	}{
		"nobody, nothing told":               {},
		"off":                                {off: true, now: room.Signs{Present: here("online", "")}},
		"online, nothing told":               {now: room.Signs{Present: here("online", "")}, due: true},
		"online, told":                       {now: room.Signs{Present: here("online", "")}, told: room.Signs{Present: here("online", ""), Good: now.Add(good)}},
		"online, told half of its time ago":  {now: room.Signs{Present: here("online", "")}, told: room.Signs{Present: here("online", ""), Good: now.Add(good/2 - 1)}, due: true},
		"online, told long ago":              {now: room.Signs{Present: here("online", "")}, told: room.Signs{Present: here("online", ""), Good: now.Add(-1)}, due: true},
		"gone, told":                         {told: room.Signs{Present: here("online", ""), Good: now.Add(good)}, due: true},
		"gone, told long ago":                {told: room.Signs{Present: here("online", ""), Good: now.Add(-1)}},
		"nobody, told so":                    {told: room.Signs{Good: now.Add(1)}},
		"another word":                       {now: room.Signs{Present: here("online", "x")}, told: room.Signs{Present: here("online", ""), Good: now.Add(good)}, due: true},
		"types":                              {now: room.Signs{Typing: types(time.Minute)}, due: true},
		"types, told":                        {now: room.Signs{Typing: types(time.Minute)}, told: room.Signs{Typing: types(time.Minute)}},
		"types on, told for long enough":     {now: room.Signs{Typing: types(time.Minute)}, told: room.Signs{Typing: types(typingSoon)}},
		"types on, told for not much longer": {now: room.Signs{Typing: types(time.Minute)}, told: room.Signs{Typing: types(typingSoon - 1)}, due: true},
		"types no longer than told":          {now: room.Signs{Typing: types(time.Second)}, told: room.Signs{Typing: types(time.Second)}},
		"types no more, told":                {told: room.Signs{Typing: types(time.Second)}, due: true},
		"types no more, as told":             {now: room.Signs{Typing: types(-1)}, told: room.Signs{Typing: types(-1)}},
	} {
		s := signState{on: !c.off, now: c.now, told: c.told}
		if got := s.due(now, good); got != c.due {
			t.Errorf("%s: due is %v", what, got)
		}
	}
}

// TestSignsFitBesideOthers: a record of however many users is small, and what has no form for others is left out.
func TestSignsFitBesideOthers(t *testing.T) {
	now := time.Now()
	s := room.Signs{Good: now.Add(time.Hour), Present: []room.Present{{User: "@first:b", State: "unavailable", Status: "two\nlines"}}}
	for i := range 500 {
		s.Present = append(s.Present, room.Present{User: matrix.UserID(fmt.Sprintf("@u%d:b", i)), State: "online", Active: now, Status: strings.Repeat("x", i)})
		s.Typing = append(s.Typing, room.Typist{Room: "!r", User: matrix.UserID(fmt.Sprintf("@u%d:b", i)), Until: now.Add(time.Duration(i-400) * time.Second)})
	}
	rec, ok := encodeSigns(7, s, now)
	if !ok || len(rec.Data) > signsSize {
		t.Fatalf("%v, %d bytes", ok, len(rec.Data))
	}
	got, err := bundle.ParseSigns(rec.Data)
	if err != nil || got.Serial != 7 || got.Good.UnixMilli() != s.Good.UnixMilli() || len(got.Present) < 2 || len(got.Typing) == 0 {
		t.Fatalf("%+v, %v", got, err)
	}
	if p := got.Present[0]; p.User != "@first:b" || p.State != bundle.Unavailable || p.Status != "" || p.Active.UnixMilli() != 0 {
		t.Errorf("%+v", p)
	}
	for _, x := range got.Typing {
		if !x.Until.After(now.Add(-time.Millisecond)) {
			t.Errorf("%+v is over", x)
		}
	}
}
