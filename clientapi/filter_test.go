// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"tarn/store"
)

func TestGlobIsTheSpecsWildCard(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"m.room.message", "m.room.message", true},
		{"m.room.message", "m.room.message.x", false},
		{"m.room.*", "m.room.message", true},
		{"m.room.*", "m.room", false},
		{"*", "", true},
		{"*.x", "a.b.x", true},
		{"a*b*c", "aXbYbc", true},
		{"a*b*c", "acb", false},
		{"**", "anything", true},
		{"", "", true},
		{"", "x", false},
		{"m.?", "m.x", false}, // only * is special
		{"ab*ba", "aba", false},
	} {
		if got := glob(c.pattern, c.s); got != c.want {
			t.Errorf("glob(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

func TestGlobAgreesWithRegexp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*]{0,8}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab]{0,10}`).Draw(t, "s")
		re := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*") + "$")
		if glob(pattern, s) != re.MatchString(s) {
			t.Fatalf("glob(%q, %q) = %v", pattern, s, glob(pattern, s))
		}
	})
}

func TestFilterListsMeanWhatTheSpecSays(t *testing.T) {
	for _, c := range []struct {
		filter string
		keeps  map[string]bool
	}{
		{`{}`, map[string]bool{"m.a": true}},
		{`{"types":["m.a"]}`, map[string]bool{"m.a": true, "m.b": false}},
		{`{"types":[]}`, map[string]bool{"m.a": false}},
		{`{"types":null}`, map[string]bool{"m.a": true}},
		{`{"not_types":["m.*"]}`, map[string]bool{"m.a": false, "org.a": true}},
		// "If this list is absent or empty then no types are excluded"; "not_types takes precedence"
		{`{"types":["m.a"],"not_types":["m.a"]}`, map[string]bool{"m.a": false}},
		{`{"not_types":[]}`, map[string]bool{"m.a": true}},
	} {
		f, err := parseRoomEventFilter(c.filter)
		if err != nil {
			t.Fatal(c.filter, err)
		}
		for typ, want := range c.keeps {
			if f.keepsType(typ) != want {
				t.Errorf("%s keeps %s: %v", c.filter, typ, !want)
			}
		}
	}
	f, _ := parseRoomEventFilter(`{"rooms":["!a"],"not_rooms":["!b"]}`)
	if !f.keepsRoom("!a") || f.keepsRoom("!b") || f.keepsRoom("!c") {
		t.Error("rooms")
	}
	for content, want := range map[string]bool{`{"url":"mxc://a/b"}`: true, `{"url":5}`: false, `{}`: false, `{"x":{"url":"y"}}`: false} {
		if containsURL([]byte(content)) != want {
			t.Errorf("containsURL(%s) = %v", content, !want)
		}
	}
}

func TestFiltersAreKeptAndChecked(t *testing.T) {
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	base := "/user/" + esc(alice.user) + "/filter"
	content := `{"room":{"timeline":{"limit":3},"state":{"lazy_load_members":true}},"org.custom":1}`
	id := alice.do("POST", base, content).ok()["filter_id"].(string)
	if strings.HasPrefix(id, "{") {
		t.Errorf("filter id %q cannot be told from a filter", id)
	}
	if a := alice.do("GET", base+"/"+esc(id), nil); a.status != 200 || a.object()["org.custom"] != 1.0 {
		t.Errorf("%d %s", a.status, a.raw)
	}
	alice.do("GET", base+"/nosuch", nil).fails(404, "M_NOT_FOUND")
	bob.do("GET", base+"/"+esc(id), nil).fails(403, "M_FORBIDDEN")
	bob.do("POST", base, obj{}).fails(403, "M_FORBIDDEN")
	for body, code := range map[string]string{
		`{"room":5}`:                                                                 "M_BAD_JSON",
		`{"room":{"timeline":{"limit":"x"}}}`:                                        "M_BAD_JSON",
		`{"room":{"timeline":{"limit":-1}}}`:                                         "M_INVALID_PARAM",
		`{"room":{"timeline":{"types":"m.room"}}}`:                                   "M_BAD_JSON",
		`{"room":{"timeline":{"types":[1]}}}`:                                        "M_BAD_JSON",
		`{"room":{"include_leave":"yes"}}`:                                           "M_BAD_JSON",
		`{"event_format":"federation"}`:                                              "M_INVALID_PARAM",
		`{"account_data":{"not_types":{"a":"b"}}}`:                                   "M_BAD_JSON",
		`{"room":{"state":{"lazy_load_members":1}}}`:                                 "M_BAD_JSON",
		`{"presence":{"types":["` + strings.Repeat(`","`, maxFilterEntries) + `"]}}`: "M_INVALID_PARAM",
	} {
		alice.do("POST", base, body).fails(400, code)
	}
}

func TestTokensReadBackAndNothingElseDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := store.Pos(rapid.Uint64().Draw(t, "pos"))
		if got, err := parseToken(token(p)); err != nil || got != p {
			t.Fatalf("%d became %d, %v", p, got, err)
		}
	})
	for _, s := range []string{"", "s1_", "s1_-1", "s1_+1", "s1_01", "s1_1 ", "s2_1", "1", "s1_18446744073709551616", "S1_1", "s1_1_2", "null"} {
		if p, err := parseToken(s); err == nil {
			t.Errorf("%q is read as %d", s, p)
		}
	}
}
