// SPDX-License-Identifier: Apache-2.0

package sliding

import (
	"encoding/json/v2"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tarn/matrix"
)

func TestWindow(t *testing.T) {
	rooms := []matrix.RoomID{"!a", "!b", "!c", "!d", "!e"}
	for _, c := range []struct {
		ranges string
		want   string
	}{
		{`[]`, ""},
		{`[[0,0]]`, "!a"},
		{`[[0,19]]`, "!a!b!c!d!e"}, // wider than the list
		{`[[1,2]]`, "!b!c"},        // both ends inclusive
		{`[[4,9]]`, "!e"},
		{`[[5,9]]`, ""}, // behind the end
		{`[[0,1],[3,4]]`, "!a!b!d!e"},
		{`[[3,4],[0,1]]`, "!a!b!d!e"},
		{`[[0,2],[1,3]]`, "!a!b!c!d"}, // an overlap is no doubling
		{`[[0,4],[1,2]]`, "!a!b!c!d!e"},
		{`[[0,9223372036854775807]]`, "!a!b!c!d!e"},
	} {
		var l List
		if err := json.Unmarshal([]byte(c.ranges), &l.Ranges); err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for _, r := range l.Window(rooms) {
			got.WriteString(string(r))
		}
		if got.String() != c.want {
			t.Errorf("%s: %s, want %s", c.ranges, got.String(), c.want)
		}
	}
}

func TestFilters(t *testing.T) {
	plain, dm, space := Facts{}, Facts{DM: true, Encrypted: true}, Facts{Type: "m.space"}
	invite, over := Facts{Invite: true}, Facts{Tombstoned: true}
	inWork := Facts{InSpace: func(s matrix.RoomID) bool { return s == "!work" }, Tagged: func(s string) bool { return s == "m.favourite" }}
	none := func(x Facts) Facts {
		if x.InSpace == nil {
			x.InSpace = func(matrix.RoomID) bool { return false }
		}
		if x.Tagged == nil {
			x.Tagged = func(string) bool { return false }
		}
		return x
	}
	all := []Facts{plain, dm, space, invite, over, inWork}
	for _, c := range []struct {
		filter string
		want   string // by number in all
	}{
		{`{}`, "012345"},
		{`{"is_dm":true}`, "1"},
		{`{"is_dm":false}`, "02345"},
		{`{"is_dm":null}`, "012345"},
		{`{"is_encrypted":true}`, "1"},
		{`{"is_encrypted":false}`, "02345"},
		{`{"is_invite":true}`, "3"},
		{`{"is_invite":false}`, "01245"},
		{`{"is_tombstoned":true}`, "4"},
		{`{"room_types":["m.space"]}`, "2"},
		{`{"room_types":[null]}`, "01345"}, // null: rooms without a type
		{`{"room_types":[null,"m.space"]}`, "012345"},
		{`{"room_types":[]}`, ""},
		{`{"not_room_types":["m.space"]}`, "01345"},
		{`{"not_room_types":[null]}`, "2"},
		{`{"room_types":["m.space"],"not_room_types":["m.space"]}`, ""}, // "not_room_types wins"
		{`{"spaces":["!work"]}`, "5"},
		{`{"spaces":["!home"]}`, ""},
		{`{"spaces":["!home","!work"]}`, "5"},
		{`{"tags":["m.favourite"]}`, "5"},
		{`{"not_tags":["m.favourite"]}`, "01234"},
		{`{"is_dm":true,"is_encrypted":false}`, ""},
	} {
		var f Filters
		if err := json.Unmarshal([]byte(c.filter), &f); err != nil {
			t.Fatal(err)
		}
		got := ""
		for i, x := range all {
			if f.Keeps(none(x)) {
				got += fmt.Sprint(i)
			}
		}
		if got != c.want {
			t.Errorf("%s keeps %s, want %s", c.filter, got, c.want)
		}
	}
}

func TestRequiredState(t *testing.T) {
	for _, c := range []struct {
		required string
		typ, key string
		want     bool
	}{
		{`[]`, "m.room.name", "", false},
		{`[["m.room.name",""]]`, "m.room.name", "", true},
		{`[["m.room.name",""]]`, "m.room.name", "x", false},
		{`[["m.room.name",""]]`, "m.room.topic", "", false},
		{`[["m.space.child","*"]]`, "m.space.child", "!r", true},
		{`[["m.space.child","*"]]`, "m.space.parent", "!r", false},
		{`[["*",""]]`, "m.room.name", "", true},
		{`[["*",""]]`, "m.room.member", "@me:x", false},
		{`[["*","*"]]`, "m.room.member", "@you:x", true},
		{`[["*","*"]]`, "org.any", "thing", true},
		{`[["m.room.member","$ME"]]`, "m.room.member", "@me:x", true},
		{`[["m.room.member","$ME"]]`, "m.room.member", "@you:x", false},
		{`[["m.room.member","$LAZY"]]`, "m.room.member", "@you:x", false}, // by need
		{`[["*","*"],["m.room.member","$LAZY"]]`, "m.room.member", "@you:x", false},
		{`[["*","*"],["m.room.member","$LAZY"]]`, "m.room.name", "", true},
		{`[["*","*"],["m.room.member","$ME"]]`, "m.room.member", "@me:x", true},
		{`[["*","*"],["m.room.member","$ME"]]`, "m.room.member", "@you:x", false},
		{`[["m.room.member","$me"]]`, "m.room.member", "@me:x", false},
	} {
		var r Room
		if err := json.Unmarshal([]byte(c.required), &r.Required); err != nil {
			t.Fatal(err)
		}
		var w Wants
		s, isLazy := newSet(r.Required, "@me:x")
		w.add(s, isLazy)
		if got := w.Has(matrix.StateKey{Type: c.typ, Key: c.key}); got != c.want {
			t.Errorf("%s wants %s %q: %v", c.required, c.typ, c.key, got)
		}
		if w.Lazy != strings.Contains(c.required, "$LAZY") {
			t.Errorf("%s: lazy is %v", c.required, w.Lazy)
		}
	}
}

func TestWhatIsTooMuchOrMalformedIsRefused(t *testing.T) {
	many := func(n int, s string) string { return strings.TrimSuffix(strings.Repeat(s+",", n), ",") }
	for name, body := range map[string]string{
		"range of one":       `{"lists":{"a":{"ranges":[[0]]}}}`,
		"range of three":     `{"lists":{"a":{"ranges":[[0,1,2]]}}}`,
		"negative range":     `{"lists":{"a":{"ranges":[[-1,1]]}}}`,
		"range backwards":    `{"lists":{"a":{"ranges":[[5,1]]}}}`,
		"many ranges":        `{"lists":{"a":{"ranges":[` + many(maxRanges+1, `[0,1]`) + `]}}}`,
		"negative limit":     `{"lists":{"a":{"timeline_limit":-1}}}`,
		"required of one":    `{"lists":{"a":{"required_state":[["m.room.name"]]}}}`,
		"much required":      `{"lists":{"a":{"required_state":[` + many(maxRequired+1, `["a","b"]`) + `]}}}`,
		"long type":          `{"lists":{"a":{"required_state":[["` + strings.Repeat("x", 256) + `",""]]}}}`,
		"large filter":       `{"lists":{"a":{"filters":{"tags":[` + many(maxFilter+1, `"x"`) + `]}}}}`,
		"long list name":     `{"lists":{"` + strings.Repeat("x", 256) + `":{}}}`,
		"no room id":         `{"room_subscriptions":{"#a:b":{}}}`,
		"negative sub limit": `{"room_subscriptions":{"!a":{"timeline_limit":-1}}}`,
		"long conn":          `{"conn_id":"` + strings.Repeat("x", 256) + `"}`,
		"negative to-device": `{"extensions":{"to_device":{"limit":-1}}}`,
	} {
		var q Request
		if err := json.Unmarshal([]byte(body), &q); err != nil {
			t.Fatal(name, err)
		}
		if err := q.Check(); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var q Request
	for i := range maxLists + 1 {
		if q.Lists == nil {
			q.Lists = map[string]List{}
		}
		q.Lists[fmt.Sprint(i)] = List{}
	}
	if err := q.Check(); !errors.Is(err, ErrRequest) {
		t.Error("many lists:", err)
	}
}

func listed(rooms ...string) (out []Listed) {
	for i, r := range rooms {
		out = append(out, Listed{Room: matrix.RoomID(r), Bump: uint64(100 - i), Facts: Facts{DM: strings.HasSuffix(r, "dm")}})
	}
	return out
}

func TestPlanUnitesListsAndSubscriptions(t *testing.T) {
	var q Request
	if err := json.Unmarshal([]byte(`{
		"lists":{
			"all":{"ranges":[[0,1]],"timeline_limit":1,"required_state":[["m.room.name",""]]},
			"dms":{"ranges":[[0,9]],"timeline_limit":5,"required_state":[["m.room.topic",""],["m.room.member","$LAZY"]],"filters":{"is_dm":true}}},
		"room_subscriptions":{"!b_dm":{"timeline_limit":20,"required_state":[["m.room.avatar",""]]},"!none":{"timeline_limit":1}}}`), &q); err != nil {
		t.Fatal(err)
	}
	rooms := listed("!a", "!b_dm", "!c", "!d_dm")
	slices.Reverse(rooms) // it sorts them
	shown, counts := q.Plan("@me:x", rooms, func(r matrix.RoomID) bool { return r != "!none" })
	if counts["all"] != 4 || counts["dms"] != 2 || len(shown) != 3 || shown["!c"] != nil {
		t.Fatal(counts, shown)
	}
	b := shown["!b_dm"]
	if b.Limit != 20 || !b.Subscribed || !slices.Equal(b.Lists, []string{"all", "dms"}) || !b.Wants.Lazy {
		t.Errorf("%+v", b)
	}
	for _, typ := range []string{"m.room.name", "m.room.topic", "m.room.avatar"} {
		if !b.Wants.Has(matrix.StateKey{Type: typ}) {
			t.Error("not wanted:", typ)
		}
	}
	if a := shown["!a"]; a.Limit != 1 || a.Subscribed || a.Wants.Lazy || a.Wants.Has(matrix.StateKey{Type: "m.room.topic"}) {
		t.Errorf("%+v", a)
	}
	if a, d := shown["!a"], shown["!d_dm"]; a.Wants.Same(d.Wants) || !a.Wants.Same(a.Wants) {
		t.Error("what is wanted compares badly")
	}
}

func TestExtensionCovers(t *testing.T) {
	for _, c := range []struct {
		ext  string
		x    Shown
		want bool
	}{
		{`{}`, Shown{Lists: []string{"a"}, Subscribed: true}, false},
		{`{"enabled":true}`, Shown{Lists: []string{"a"}}, true},
		{`{"enabled":true}`, Shown{Subscribed: true}, true},
		{`{"enabled":true,"lists":["b"]}`, Shown{Lists: []string{"a"}}, false},
		{`{"enabled":true,"lists":["b","a"]}`, Shown{Lists: []string{"a"}}, true},
		{`{"enabled":true,"lists":["*"]}`, Shown{Lists: []string{"a"}}, true},
		{`{"enabled":true,"lists":[]}`, Shown{Lists: []string{"a"}, Subscribed: true}, true}, // by the subscription
		{`{"enabled":true,"lists":[],"rooms":[]}`, Shown{Lists: []string{"a"}, Subscribed: true}, false},
		{`{"enabled":true,"lists":[],"rooms":["!r"]}`, Shown{Lists: []string{"a"}, Subscribed: true}, true},
		{`{"enabled":true,"lists":[],"rooms":["!s"]}`, Shown{Subscribed: true}, false},
		{`{"enabled":true,"lists":[],"rooms":["*"]}`, Shown{Subscribed: true}, true},
	} {
		var e RoomExtension
		if err := json.Unmarshal([]byte(c.ext), &e); err != nil {
			t.Fatal(err)
		}
		if got := e.Covers("!r", &c.x); got != c.want {
			t.Errorf("%s of %+v: %v", c.ext, c.x, got)
		}
	}
}

func TestConnectionGoesOnFromItsTwoNewestAnswers(t *testing.T) {
	var c Conns
	k := Key{"@a:x", "D", "list"}
	begin := func(pos string) *Turn {
		t.Helper()
		turn, err := c.Begin(k, pos)
		if err != nil {
			t.Fatal(pos, err)
		}
		return turn
	}
	p1 := begin("").End(State{Since: 1})
	p2 := begin(p1).End(State{Since: 2})
	// The answer with p2 was lost: the client asks from p1 again, twice.
	if got := begin(p1).State.Since; got != 1 {
		t.Error("a repeated question begins at", got)
	}
	turn := begin(p1)
	p3 := turn.End(State{Since: 3})
	if _, err := c.Begin(k, p2); !errors.Is(err, ErrUnknownPos) {
		t.Error("an answer that was replaced can be gone on from:", err)
	}
	if got := begin(p3).State.Since; got != 3 {
		t.Error(got)
	}
	p4 := begin(p3).End(State{Since: 4})
	begin(p4)
	for _, bad := range []string{p1, p2, "x", "_", p4 + "0", "0_1", strings.Replace(p4, "_", "", 1)} {
		if _, err := c.Begin(k, bad); !errors.Is(err, ErrUnknownPos) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if _, err := c.Begin(Key{"@a:x", "E", "list"}, p4); !errors.Is(err, ErrUnknownPos) {
		t.Error("another device's position:", err)
	}
	begin("").End(State{Since: 5})
	if _, err := c.Begin(k, p4); !errors.Is(err, ErrUnknownPos) {
		t.Error("a position from before the connection began anew:", err)
	}
}

func TestNewerQuestionEndsTheOlder(t *testing.T) {
	var c Conns
	k := Key{"@a:x", "D", ""}
	first, _ := c.Begin(k, "")
	p1 := first.End(State{Since: 1})
	older, _ := c.Begin(k, p1)
	newer, err := c.Begin(k, p1)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-older.Over():
	default:
		t.Fatal("the older question still waits")
	}
	p2 := newer.End(State{Since: 2})
	if got := older.End(State{Since: 9}); got != p2 {
		t.Error("the older question's position:", got)
	}
	next, err := c.Begin(k, p2)
	if err != nil || next.State.Since != 2 {
		t.Error(next, err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	var c Conns
	first, _ := c.Begin(Key{"@a:x", "D", "0"}, "")
	p := first.End(State{Since: 1})
	for i := range maxOfUser * 3 {
		turn, _ := c.Begin(Key{"@b:x", "D", fmt.Sprint(i)}, "")
		turn.End(State{Since: 1})
	}
	if len(c.all) > maxOfUser+1 {
		t.Error("one user has", len(c.all)-1)
	}
	if _, err := c.Begin(Key{"@a:x", "D", "0"}, p); err != nil {
		t.Error("another user's connections drove this one out:", err)
	}
	for i := range maxAll * 2 {
		_, _ = c.Begin(Key{matrix.UserID(fmt.Sprintf("@u%d:x", i)), "D", ""}, "")
	}
	if len(c.all) > maxAll {
		t.Error(len(c.all), "connections")
	}
}

func TestSentMembersAreBoundedAndNeverChanged(t *testing.T) {
	a := Sent{}.With([]matrix.UserID{"@a"})
	b := a.With([]matrix.UserID{"@b"})
	if len(a.Members) != 1 || len(b.Members) != 2 {
		t.Error(a.Members, b.Members)
	}
	for i := range maxMembers * 2 {
		b = b.With([]matrix.UserID{matrix.UserID(fmt.Sprint(i))})
		if len(b.Members) > maxMembers {
			t.Fatal(len(b.Members))
		}
	}
}

// FuzzRequest: whatever passes Check is planned within its bounds: no room twice, none that does not pass the filter, and
// no more than the windows are wide.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		`{"conn_id":"room-list","lists":{"all_rooms":{"ranges":[[0,19]],"timeline_limit":1,"required_state":[["m.room.member","$LAZY"],["m.room.member","$ME"]],"filters":{"not_room_types":["m.space"]}}}}`,
		`{"lists":{"a":{"ranges":[[0,1],[1,2],[0,9223372036854775807]]}},"room_subscriptions":{"!a":{"timeline_limit":9e15}}}`,
		`{"lists":{"a":{"ranges":[[0,0]],"filters":{"is_dm":true}}}}`, `{}`, `{"lists":null}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var q Request
		if json.Unmarshal(raw, &q) != nil || q.Check() != nil {
			return
		}
		rooms := listed("!a", "!b_dm", "!c", "!d_dm", "!e")
		for i := range rooms {
			rooms[i].Facts.InSpace = func(matrix.RoomID) bool { return false }
			rooms[i].Facts.Tagged = func(string) bool { return false }
		}
		shown, counts := q.Plan("@me:x", rooms, func(r matrix.RoomID) bool { return len(r) < 6 })
		if len(counts) != len(q.Lists) {
			t.Fatal(counts)
		}
		for name, l := range q.Lists {
			got := l.Window([]matrix.RoomID{"!a", "!b_dm", "!c"})
			if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) {
				t.Errorf("%s: %v", name, got)
			}
		}
		for id, x := range shown {
			if x.Limit < 0 || x.Limit > MaxTimeline || len(x.Lists) == 0 && !x.Subscribed {
				t.Errorf("%s: %+v", id, x)
			}
			for _, name := range x.Lists {
				l := q.Lists[name]
				for _, r := range rooms {
					if r.Room == id && !l.Filters.Keeps(r.Facts) {
						t.Errorf("%s is in %s", id, name)
					}
				}
			}
		}
	})
}
