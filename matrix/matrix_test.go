// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package matrix

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/crypto/canonicaljson"

	"tarn/crypto/onionid"
)

// newSigner makes a server from a seed byte.
func newSigner(seed byte) Signer {
	onion := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed, 1}, 16))
	return Signer{
		Server: onionid.FromKey(onion.Public().(ed25519.PublicKey)),
		KeyID:  onionid.KeyID(key.Public().(ed25519.PublicKey)),
		Key:    key,
	}
}

// keysOf knows the keys of signers.
func keysOf(signers ...Signer) KeyFunc {
	return func(server ServerName, keyID string) (ed25519.PublicKey, error) {
		for _, s := range signers {
			if s.Server == server && s.KeyID == keyID {
				return s.Key.Public().(ed25519.PublicKey), nil
			}
		}
		return nil, ErrUnknownKey
	}
}

func text(s string) *string { return &s }

var (
	alice  = newSigner(1)
	bob    = newSigner(2)
	at     = time.UnixMilli(1_700_000_000_123)
	someID = EventID("$" + strings.Repeat("A", 43))
)

func user(s Signer) UserID { return UserID("@u:" + string(s.Server)) }

// proto is a message in a room of version v.
func proto(v RoomVersion, content string) Proto {
	p := Proto{
		Room: "!r:" + RoomID(alice.Server), Sender: user(alice), Type: TypeMessage, Content: json.RawMessage(content),
		PrevEvents: []EventID{someID}, AuthEvents: []EventID{someID}, Depth: 7, Time: at,
	}
	if v.RoomIDIsCreateEventID() {
		p.Room = RoomID("!" + strings.Repeat("A", 43))
	}
	return p
}

func mustBuild(t testing.TB, v RoomVersion, p Proto, s Signer) *Event {
	t.Helper()
	e, err := Build(v, p, s)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

var versions = []RoomVersion{"6", "7", "8", "9", "10", "11", "12"}

func TestBuiltEventIsReadBackWithTheSameIDAndVerifies(t *testing.T) {
	for _, v := range versions {
		p := proto(v, `{"msgtype":"m.text","body":"hi <&> \u00e9 \u2028"}`)
		e := mustBuild(t, v, p, alice)
		again, err := Parse(v, e.Raw())
		if err != nil {
			t.Fatalf("version %s: %v", v, err)
		}
		if !bytes.Equal(again.Raw(), e.Raw()) || again.ID() != e.ID() || again.Redacted() {
			t.Errorf("version %s: read back differently", v)
		}
		if id, err := e.PDU().GetEventID(v); err != nil || id != e.ID() {
			t.Errorf("version %s: id %s, the library says %s (%v)", v, e.ID(), id, err)
		}
		if err := again.Verify(keysOf(alice)); err != nil {
			t.Errorf("version %s: %v", v, err)
		}
		if err := again.Verify(keysOf(bob)); !errors.Is(err, ErrUnknownKey) {
			t.Errorf("version %s: a server of unknown key: %v", v, err)
		}
		if again.Room() != p.Room || again.Sender() != p.Sender || again.Server() != alice.Server || again.Depth() != 7 ||
			!again.Time().Equal(at) || again.StateKey() != nil || again.Type() != TypeMessage || again.Version() != v {
			t.Errorf("version %s: fields differ", v)
		}
		if bytes.Contains(e.Raw(), []byte(`"origin":`)) || bytes.Contains(e.Raw(), []byte(`"prev_state"`)) {
			t.Errorf("version %s: useless fields written: %s", v, e.Raw())
		}
		loaded, err := Load(v, e.ID(), e.Raw())
		if err != nil || loaded.ID() != e.ID() || loaded.Room() != e.Room() || loaded.ContentString("body") != e.ContentString("body") {
			t.Errorf("version %s: loaded differently: %v", v, err)
		}
	}
}

func TestVersion12RoomIDIsTheCreateEventsHash(t *testing.T) {
	content, err := CreateContent("12", user(alice), []byte(`{"m.federate":true,"creator":"x","room_version":"1"}`))
	if err != nil {
		t.Fatal(err)
	}
	e := mustBuild(t, "12", Proto{Sender: user(alice), Type: TypeCreate, StateKey: text(""), Content: content, Time: at}, alice)
	if string(e.Room()[1:]) != string(e.ID()[1:]) || e.Room()[0] != '!' || CreateEventID("12", e.Room()) != e.ID() {
		t.Errorf("room %s, create event %s", e.Room(), e.ID())
	}
	if e.ContentString("room_version") != "12" || e.ContentString("creator") != "" || len(e.ContentString(NonceKey)) < 22 {
		t.Errorf("create content: %s", e.Content())
	}
	other, _ := CreateContent("12", user(alice), nil)
	if bytes.Equal(content, other) {
		t.Error("two rooms with one nonce")
	}
	if _, err := Parse("11", e.Raw()); !errors.Is(err, ErrVersion) {
		t.Errorf("a create event of version 12 read as 11: %v", err)
	}
	if _, err := CreateContent("12", user(alice), []byte(`[1]`)); !errors.Is(err, ErrFormat) {
		t.Errorf("an array as creation content: %v", err)
	}
	old, _ := CreateContent("10", user(alice), nil)
	if !bytes.Contains(old, []byte(`"creator":"@u:`)) {
		t.Errorf("version 10 without creator: %s", old)
	}
}

func TestSpoiltContentBecomesTheRedactedFormWithTheSameID(t *testing.T) {
	for _, v := range versions {
		p := proto(v, `{"membership":"join","displayname":"U"}`)
		p.Type, p.StateKey = TypeMember, text(string(user(alice)))
		e := mustBuild(t, v, p, alice)
		spoilt := bytes.Replace(e.Raw(), []byte(`"displayname":"U"`), []byte(`"displayname":"V"`), 1)
		got, err := Parse(v, spoilt)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Redacted() || got.ID() != e.ID() || string(got.Content()) != `{"membership":"join"}` {
			t.Errorf("version %s: redacted %v, content %s", v, got.Redacted(), got.Content())
		}
		if err := got.Verify(keysOf(alice)); err != nil {
			t.Errorf("version %s: a redacted event keeps its signature: %v", v, err)
		}
		again, err := Parse(v, got.Raw())
		if err != nil || !bytes.Equal(again.Raw(), got.Raw()) {
			t.Errorf("version %s: the redacted form does not read back: %v", v, err)
		}
		if r := e.Redact(); r.ID() != e.ID() || !bytes.Equal(r.Raw(), got.Raw()) || e.Redacted() {
			t.Errorf("version %s: Redact differs", v)
		}
		// What the signature covers: spoilt too, then the id and the signature go.
		spoilt = bytes.Replace(e.Raw(), []byte(`"membership":"join"`), []byte(`"membership":"ban!"`), 1)
		if got, err = Parse(v, spoilt); err == nil {
			if err = got.Verify(keysOf(alice)); !errors.Is(err, ErrSignature) || got.ID() == e.ID() {
				t.Errorf("version %s: forged membership: %v", v, err)
			}
		}
	}
}

func TestRestrictedJoinNeedsBothServersSignatures(t *testing.T) {
	p := proto("12", `{"membership":"join","join_authorised_via_users_server":"`+string(user(bob))+`"}`)
	p.Type, p.StateKey = TypeMember, text(string(user(alice)))
	e := mustBuild(t, "12", p, alice)
	if err := e.Verify(keysOf(alice, bob)); !errors.Is(err, ErrSignature) {
		t.Errorf("without the authorising server: %v", err)
	}
	both, err := e.Cosign(bob)
	if err != nil || both.ID() != e.ID() {
		t.Fatal(err)
	}
	if err := both.Verify(keysOf(alice, bob)); err != nil {
		t.Error(err)
	}
	if err := both.Verify(keysOf(alice)); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("authorising server unknown: %v", err)
	}
	if len(e.PDU().Signatures) != 1 {
		t.Error("Cosign wrote into the first event")
	}
}

func TestKeyOfWrongLengthIsNoPanic(t *testing.T) {
	e := mustBuild(t, "12", proto("12", `{}`), alice)
	for _, n := range []int{0, 31, 33, 64} {
		keys := func(ServerName, string) (ed25519.PublicKey, error) { return make([]byte, n), nil }
		if err := e.Verify(keys); !errors.Is(err, ErrSignature) {
			t.Errorf("key of %d bytes: %v", n, err)
		}
	}
	s := alice
	s.Key = s.Key[:31]
	if _, err := Build("12", proto("12", `{}`), s); err == nil {
		t.Error("signed with a short key")
	}
}

func TestSignaturesOfOthersBesideTheRightOneDoNotSpoilIt(t *testing.T) {
	e := mustBuild(t, "12", proto("12", `{}`), alice)
	extra := fmt.Sprintf(`"%s":{"ed25519:0":"AAAA",`, alice.Server)
	raw := bytes.Replace(e.Raw(), fmt.Appendf(nil, `"%s":{`, alice.Server), []byte(extra), 1)
	got, err := Parse("12", raw)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Verify(keysOf(alice)); err != nil {
		t.Error(err)
	}
}

// signed gives the canonical wire bytes of an event whose JSON object was changed by f, hashed and signed anew.
func signed(t testing.TB, v RoomVersion, e *Event, f func(m map[string]any)) []byte {
	t.Helper()
	var m map[string]any
	d := json.NewDecoder(bytes.NewReader(e.Raw()))
	d.UseNumber()
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	f(m)
	raw, err := canonicaljson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestParseRefusesMalformedEvents(t *testing.T) {
	e := mustBuild(t, "12", proto("12", `{"body":"hi"}`), alice)
	long := strings.Repeat("x", 256)
	ids := func(n int) []any {
		var out []any
		for i := range n {
			out = append(out, fmt.Sprintf("$%c%s", 'A'+i, strings.Repeat("A", 42)))
		}
		return out
	}
	for name, c := range map[string]struct {
		change func(m map[string]any)
		want   error
	}{
		"type of 256 bytes":      {func(m map[string]any) { m["type"] = long }, ErrTooLarge},
		"empty type":             {func(m map[string]any) { m["type"] = "" }, ErrFormat},
		"state key of 256 bytes": {func(m map[string]any) { m["state_key"] = long }, ErrTooLarge},
		"null state key":         {func(m map[string]any) { m["state_key"] = nil }, ErrNotCanonical},
		"sender of 256 bytes":    {func(m map[string]any) { m["sender"] = "@" + long + ":" + string(alice.Server) }, ErrUserID},
		"sender not on an onion": {func(m map[string]any) { m["sender"] = "@u:example.org" }, ErrUserID},
		"21 parents":             {func(m map[string]any) { m["prev_events"] = ids(21) }, ErrTooLarge},
		"11 auth events":         {func(m map[string]any) { m["auth_events"] = ids(11) }, ErrTooLarge},
		"a parent twice":         {func(m map[string]any) { m["prev_events"] = append(ids(1), ids(1)...) }, ErrFormat},
		"no event id":            {func(m map[string]any) { m["prev_events"] = []any{"$short"} }, ErrFormat},
		"old event id":           {func(m map[string]any) { m["auth_events"] = []any{"$x:example.org"} }, ErrFormat},
		"no parents list":        {func(m map[string]any) { delete(m, "prev_events") }, ErrNotCanonical},
		"negative depth":         {func(m map[string]any) { m["depth"] = -1 }, ErrFormat},
		"text as depth":          {func(m map[string]any) { m["depth"] = "1" }, ErrFormat},
		"content a list":         {func(m map[string]any) { m["content"] = []any{} }, ErrFormat},
		"content null":           {func(m map[string]any) { m["content"] = nil }, ErrFormat},
		"no hashes":              {func(m map[string]any) { delete(m, "hashes") }, ErrFormat},
		"short hash":             {func(m map[string]any) { m["hashes"] = map[string]any{"sha256": "AAAA"} }, ErrFormat},
		"unsigned":               {func(m map[string]any) { m["unsigned"] = map[string]any{"age": 1} }, ErrFormat},
		"room of another form":   {func(m map[string]any) { m["room_id"] = "!r:example.org" }, ErrRoomID},
		"no room":                {func(m map[string]any) { delete(m, "room_id") }, ErrRoomID},
		"member of no user":      {func(m map[string]any) { m["type"] = TypeMember; m["state_key"] = "bob" }, ErrUserID},
		"create without a key":   {func(m map[string]any) { m["type"] = TypeCreate }, ErrFormat},
		"create with a key":      {func(m map[string]any) { m["type"] = TypeCreate; m["state_key"] = "x" }, ErrFormat},
		"create with a room": {func(m map[string]any) {
			m["type"], m["state_key"], m["content"] = TypeCreate, "", map[string]any{"room_version": "12"}
		}, ErrFormat},
		"create of version 1": {func(m map[string]any) {
			m["type"], m["state_key"] = TypeCreate, ""
			delete(m, "room_id")
		}, ErrVersion},
	} {
		if _, err := Parse("12", signed(t, "12", e, c.change)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for name, raw := range map[string]string{
		"empty": "", "null": "null", "list": "[]", "not JSON": "{", "empty object": "{}",
		"space":      strings.Replace(string(e.Raw()), `{"body"`, `{ "body"`, 1),
		"float":      strings.Replace(string(e.Raw()), `"depth":7`, `"depth":7.0`, 1),
		"exponent":   strings.Replace(string(e.Raw()), `{"body":"hi"}`, `{"body":1e3}`, 1),
		"minus zero": strings.Replace(string(e.Raw()), `{"body":"hi"}`, `{"body":-0}`, 1),
		"big":        strings.Replace(string(e.Raw()), `{"body":"hi"}`, `{"body":9007199254740992}`, 1),
		"escape":     strings.Replace(string(e.Raw()), `"hi"`, `"\u0068i"`, 1),
		"order":      strings.Replace(string(e.Raw()), `{"body":"hi"}`, `{"body":"hi","a":1}`, 1),
		"duplicate":  strings.Replace(string(e.Raw()), `{"body":"hi"}`, `{"body":"hi","body":"hi"}`, 1),
		"tail":       string(e.Raw()) + "\n",
		"bad UTF-8":  strings.Replace(string(e.Raw()), `"hi"`, "\"\xff\"", 1),
		"deep":       strings.Replace(string(e.Raw()), `"hi"`, strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000), 1),
	} {
		if got, err := Parse("12", []byte(raw)); err == nil {
			t.Errorf("%s: parsed as %s", name, got.Raw())
		}
	}
	if _, err := Parse("12", make([]byte, MaxEvent+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too many bytes: %v", err)
	}
	for _, v := range []RoomVersion{"", "1", "5", "13", "org.example"} {
		if _, err := Parse(v, e.Raw()); !errors.Is(err, ErrVersion) {
			t.Errorf("version %q: %v", v, err)
		}
		if _, err := Build(v, proto("12", "{}"), alice); !errors.Is(err, ErrVersion) {
			t.Errorf("building for version %q: %v", v, err)
		}
	}
}

func TestBuildRefusesWhatParseWould(t *testing.T) {
	big := proto("12", `{"body":"`+strings.Repeat("x", MaxEvent-200)+`"}`)
	if _, err := Build("12", big, alice); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	for _, c := range []string{`[]`, `"x"`, `{"a":1.5}`, `{"a":1,"a":2}`, `{`, `null`} {
		if _, err := Build("12", proto("12", c), alice); !errors.Is(err, ErrFormat) {
			t.Errorf("content %s: %v", c, err)
		}
	}
	p := proto("12", `{}`)
	p.Sender = user(bob)
	if _, err := Build("12", p, alice); !errors.Is(err, ErrFormat) {
		t.Errorf("another server's user: %v", err)
	}
	p = proto("12", `{}`)
	p.Time = time.Time{}
	if _, err := Build("12", p, alice); !errors.Is(err, ErrFormat) {
		t.Errorf("year 1: %v", err)
	}
}

func TestRedactionNamesItsEventWhereTheVersionWantsIt(t *testing.T) {
	for _, v := range versions {
		p := proto(v, `{"reason":"spam"}`)
		p.Type, p.Redacts = TypeRedaction, someID
		e := mustBuild(t, v, p, alice)
		if e.Redacts() != someID {
			t.Errorf("version %s: redacts %q", v, e.Redacts())
		}
		raw, err := e.Client(map[string]any{"age": 3}, true)
		if err != nil {
			t.Fatal(err)
		}
		var c struct {
			Redacts  string
			Content  map[string]string
			RoomID   string         `json:"room_id"`
			EventID  string         `json:"event_id"`
			Unsigned map[string]any `json:"unsigned"`
			StateKey *string        `json:"state_key"`
		}
		if err := json.Unmarshal(raw, &c); err != nil {
			t.Fatal(err)
		}
		if c.Redacts != string(someID) || c.Content["redacts"] != string(someID) || c.Content["reason"] != "spam" ||
			c.RoomID != string(e.Room()) || c.EventID != string(e.ID()) || c.Unsigned["age"] != 3.0 || c.StateKey != nil {
			t.Errorf("version %s: client sees %s", v, raw)
		}
		if again, err := Parse(v, e.Raw()); err != nil || again.ID() != e.ID() {
			t.Errorf("version %s: showing an event changed it: %v", v, err)
		}
	}
}

func TestClientAndStrippedForms(t *testing.T) {
	p := proto("12", `{"name":"a <b>"}`)
	p.Type, p.StateKey = TypeName, text("")
	e := mustBuild(t, "12", p, alice)
	raw, err := e.Client(nil, false)
	want := fmt.Sprintf(`{"content":{"name":"a <b>"},"event_id":"%s","origin_server_ts":%d,"sender":"%s","state_key":"","type":"m.room.name"}`,
		e.ID(), at.UnixMilli(), user(alice))
	if err != nil || string(raw) != want {
		t.Errorf("client form %s (%v), want %s", raw, err, want)
	}
	raw, err = e.Stripped()
	want = fmt.Sprintf(`{"content":{"name":"a <b>"},"sender":"%s","state_key":"","type":"m.room.name"}`, user(alice))
	if err != nil || string(raw) != want {
		t.Errorf("stripped form %s (%v), want %s", raw, err, want)
	}
	if _, err := mustBuild(t, "12", proto("12", `{}`), alice).Stripped(); !errors.Is(err, ErrFormat) {
		t.Errorf("a message stripped: %v", err)
	}
}

func TestUserIDGrammar(t *testing.T) {
	on := ":" + string(alice.Server)
	for _, s := range []string{"@a" + on, "@" + on, "@A b!" + on, "@é" + on} {
		if _, server, err := ParseUserID(UserID(s)); err != nil || server != alice.Server {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "@", "a" + on, "@a", "@a:", "@a:example.org", "@a" + on + ":80", "@a\x00" + on, "@\xff" + on,
		"@a:" + strings.ToUpper(string(alice.Server)), "@" + strings.Repeat("a", 255) + on} {
		if _, _, err := ParseUserID(UserID(s)); !errors.Is(err, ErrUserID) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if u, err := NewUserID("alice.b_c=d-e/f+1", alice.Server); err != nil || u != UserID("@alice.b_c=d-e/f+1"+on) {
		t.Errorf("%s: %v", u, err)
	}
	for _, s := range []string{"", "Alice", "a b", "a:b", "é"} {
		if _, err := NewUserID(s, alice.Server); !errors.Is(err, ErrLocalpart) {
			t.Errorf("new user %q: %v", s, err)
		}
	}
	if _, err := NewUserID(strings.Repeat("a", 192), alice.Server); !errors.Is(err, ErrUserID) {
		t.Errorf("long name: %v", err)
	}
}

// A known answer, also computed by hand (Python: sha256 over the sorted JSON with content {} and without signatures).
func TestKnownEventID(t *testing.T) {
	p := proto("12", `{"body":"hello","msgtype":"m.text"}`)
	e := mustBuild(t, "12", p, alice)
	const want = "$c0tMIQXVeyQErGxs_chF-VyHeHi75CIdMXcVpWO5bsI"
	if e.ID() != want {
		t.Errorf("id %s, want %s", e.ID(), want)
	}
}

// base64 passes over line breaks; an id with some in it would be another name of the same room.
func TestARoomIDWithLineBreaksIsNone(t *testing.T) {
	hash := strings.Repeat("A", 43)
	if err := CheckRoomID("12", RoomID("!"+hash)); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"!" + hash[:20] + "\n" + hash[20:], "!" + hash + "\r\n", "!" + hash[:42] + "\n"} {
		if CheckRoomID("12", RoomID(id)) == nil {
			t.Errorf("%q is a room id", id)
		}
	}
}
