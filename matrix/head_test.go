// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"bytes"
	"reflect"
	"testing"
)

// The head that is read in one pass is the library's, whatever stands in the event, or it is left to the library.
func checkHead(t *testing.T, raw []byte) {
	t.Helper()
	h, ok := readHead(raw)
	p, err := decode("12", raw)
	if !ok || err != nil {
		return
	}
	// Only what Parse let through is ever read so.
	if want := headOf(p); !reflect.DeepEqual(h, want) {
		t.Errorf("%s:\n%+v\n%+v", raw, h, want)
	}
}

func TestHeadIsTheLibrarys(t *testing.T) {
	key := "a \"key\" with \\ and \u2028"
	for _, x := range []Proto{
		{Type: TypeMessage, Content: []byte(`{"body":"}],{[\"\\","n":[1,{"a":{}}]}`)},
		{Type: "a.b", StateKey: &key, Content: []byte(`{}`)},
		{Type: TypeMember, StateKey: text(string(user(alice))), Content: []byte(`{"membership":"join","displayname":"Ünï \" code"}`)},
		{Type: TypeRedaction, Redacts: someID, Content: []byte(`{}`)},
	} {
		for _, v := range []RoomVersion{"10", "12"} {
			base := proto(v, "{}")
			x.Room, x.Sender, x.Depth, x.Time, x.PrevEvents = base.Room, base.Sender, 7, at, base.PrevEvents
			e, err := Build(v, x, alice)
			if err != nil {
				t.Fatal(err)
			}
			l, err := Load(v, e.ID(), e.Raw())
			if err != nil {
				t.Fatal(err)
			}
			if l.library.Load() != nil {
				t.Errorf("%s was left to the library", x.Type)
			}
			checkHead(t, e.Raw())
			if !reflect.DeepEqual(l.PDU(), e.PDU()) || !reflect.DeepEqual(l.head, e.head) || l.Room() != e.Room() || l.Server() != e.Server() {
				t.Errorf("%s: read back as another", x.Type)
			}
			a, err1 := e.Client(map[string]any{"age": 1}, true)
			e.Compact()
			b, err2 := e.Client(map[string]any{"age": 1}, true)
			if err1 != nil || err2 != nil || !bytes.Equal(a, b) || len(e.AuthEvents()) != len(l.AuthEvents()) {
				t.Errorf("%s: compacted it is another: %s %s", x.Type, a, b)
			}
		}
	}
}

func FuzzHead(f *testing.F) {
	for _, s := range []string{`{"type":"a","sender":"b","content":{}}`, `{"content":{"a":"\""},"type":"a\u0041","sender":"b","hashes":{},"depth":1}`, `{`, `{"a":`, `{"a":]`, `{"type":}`, `{"a":1,}`, `{"a"`} {
		f.Add([]byte(s))
	}
	for _, content := range []string{`{"body":"hi","n":[1,{"a":null}]}`, `{"\"":"\\"}`} {
		f.Add(mustBuild(f, "12", proto("12", content), alice).Raw())
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		readHead(raw) // does not panic, does not end in a loop
		if _, err := Parse("12", raw); err == nil {
			if _, ok := readHead(raw); !ok {
				t.Errorf("an event that Parse takes is left to the library: %s", raw)
			}
			checkHead(t, raw)
		}
	})
}
