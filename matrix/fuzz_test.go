// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"bytes"
	"encoding/json"
	"testing"
)

// FuzzCanonicalContent: whatever a client sends as content is refused, or becomes an event whose bytes are canonical: they read back as
// they are, and twice the same content gives the same bytes.
func FuzzCanonicalContent(f *testing.F) {
	for _, c := range []string{`{}`, ` { "b" : 1 , "a" : [ true , null , "\u00e9\ud83e\udd86" ] } `, `{"n":-9007199254740991}`, `{"n":9007199254740992}`, `{"n":1.0}`, `{"n":1e3}`, `{"n":-0}`,
		`{"a":1,"a":2}`, `{"\ud800":1}`, "{\"\x00\":1}", `{"é":1,"z":2,"\ue000":3,"\ud83e\udd86":4}`, `{"a":"\/\b\f\n\r\t\u001f\u007f"}`, `{"a":{"a":{"a":{"a":[[[[]]]]}}}}`, `[]`, `null`} {
		f.Add(c)
	}
	f.Fuzz(func(t *testing.T, content string) {
		p := proto("12", content)
		e, err := Build("12", p, alice)
		if err != nil {
			return
		}
		read, err := Parse("12", e.Raw())
		if err != nil || read.ID() != e.ID() || !bytes.Equal(read.Raw(), e.Raw()) {
			t.Fatalf("what was built does not read back: %v\n%s", err, e.Raw())
		}
		p.Content = json.RawMessage(e.Content())
		again, err := Build("12", p, alice)
		if err != nil || !bytes.Equal(again.Content(), e.Content()) {
			t.Fatalf("the canonical form changes again: %v\n%s\n%s", err, e.Content(), again.Content())
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, v := range []RoomVersion{"6", "11", "12"} {
		p := proto(v, `{"body":"hi","n":[1,{"a":null}]}`)
		f.Add(string(v), mustBuild(f, v, p, alice).Raw())
		p.Type, p.StateKey = TypeMember, text(string(user(alice)))
		p.Content = json.RawMessage(`{"membership":"invite","third_party_invite":{"signed":{"mxid":"@a:b","token":"t"},"x":1}}`)
		f.Add(string(v), mustBuild(f, v, p, alice).Raw())
		f.Add(string(v), bytes.Replace(mustBuild(f, v, p, alice).Raw(), []byte(`"x":1`), []byte(`"x":2`), 1))
	}
	f.Add("12", []byte(`{"auth_events":[],"content":{},"depth":1}`))
	f.Fuzz(func(t *testing.T, v string, raw []byte) {
		e, err := Parse(RoomVersion(v), raw)
		if err != nil {
			return
		}
		if !bytes.Equal(e.Raw(), raw) && !e.Redacted() {
			t.Fatalf("Raw differs from what came:\n%s\n%s", raw, e.Raw())
		}
		again, err := Parse(RoomVersion(v), e.Raw())
		if err != nil || again.ID() != e.ID() || !bytes.Equal(again.Raw(), e.Raw()) {
			t.Fatalf("does not read back: %v", err)
		}
		if r := e.Redact(); r.ID() != e.ID() {
			t.Fatal("a redaction changed the id")
		} else if r2, err := Parse(RoomVersion(v), r.Raw()); err != nil || r2.ID() != e.ID() {
			t.Fatalf("the redacted form does not read back: %v\n%s", err, r.Raw())
		}
		if _, err := e.Client(nil, true); err != nil {
			t.Fatal(err)
		}
		if err := e.Verify(keysOf(alice)); err == nil && e.Server() != alice.Server {
			t.Fatal("verified for a stranger")
		}
		NewPowerLevels(nil, e).User(e.Sender())
	})
}

func FuzzUserID(f *testing.F) {
	f.Add(string(user(alice)))
	f.Add("@:")
	f.Fuzz(func(t *testing.T, s string) {
		local, server, err := ParseUserID(UserID(s))
		if err == nil && "@"+local+":"+string(server) != s {
			t.Fatalf("%q taken apart as %q and %q", s, local, server)
		}
	})
}

func FuzzPowerLevels(f *testing.F) {
	f.Add(`{"users":{"@a:b":100},"events":{"m.room.name":50},"ban":"50","kick":null,"notifications":{"room":20}}`)
	f.Add(`{"users":[],"events":"x","users_default":9007199254740991}`)
	f.Fuzz(func(t *testing.T, content string) {
		for _, v := range []RoomVersion{"9", "12"} {
			p := proto(v, content)
			p.Type, p.StateKey = TypePowerLevels, text("")
			e, err := Build(v, p, alice)
			if err != nil {
				return
			}
			l := NewPowerLevels(nil, e)
			l.User("@a:b")
			l.Event(TypeName, true)
			l.Notification("room")
		}
	})
}
