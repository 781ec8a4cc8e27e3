// SPDX-License-Identifier: Apache-2.0

package push

import (
	"crypto/ed25519"
	"encoding/json/v2"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarn/crypto/onionid"
	"tarn/matrix"
)

// The texts below say s.example for the server's name, which is an onion's.
var (
	key    = ed25519.NewKeyFromSeed(make([]byte, 32))
	server = onionid.FromKey(key.Public().(ed25519.PublicKey))
	signer = matrix.Signer{Server: server, KeyID: "ed25519:1", Key: key}
	alice  = matrix.UserID(named("@alice:s.example"))
	bob    = matrix.UserID(named("@bob:s.example"))
	room   = matrix.RoomID(named("!room:s.example"))
)

func named(s string) string { return strings.ReplaceAll(s, "s.example", string(server)) }

// event builds one of bob's, of room version 11; state key "-" is none.
func event(t testing.TB, typ, key, content string) *matrix.Event {
	t.Helper()
	p := matrix.Proto{Room: room, Sender: bob, Type: typ, Content: []byte(named(content)), Depth: 2, Time: time.UnixMilli(1)}
	if key = named(key); key != "-" {
		p.StateKey = &key
	}
	e, err := matrix.Build("11", p, signer)
	if err != nil {
		t.Fatalf("%s: %v", content, err)
	}
	return e
}

// facts: three members, alice is called "Alice L", bob has no power, carol's absent.
func facts(members int, power string) func() (Facts, error) {
	return func() (Facts, error) {
		f := Facts{Members: members, DisplayName: "Alice L."}
		if power != "" {
			none := ""
			p := matrix.Proto{Room: room, Sender: bob, Type: "m.room.power_levels", StateKey: &none, Content: []byte(named(power)), Depth: 2, Time: time.UnixMilli(1)}
			e, err := matrix.Build("11", p, signer)
			if err != nil {
				return f, err
			}
			f.Power = matrix.NewPowerLevels(nil, e)
		}
		return f, nil
	}
}

const (
	weak   = `{"users":{}}`
	strong = `{"users":{"@bob:s.example":50}}`
	likes  = `{"notifications":{"room":0}}`
)

// TestPredefinedRules has a line for each sentence of "Predefined Rules".
func TestPredefinedRules(t *testing.T) {
	j := NewJudge(alice, Default(alice), nil)
	for _, c := range []struct {
		name, typ, key, content string
		members                 int
		power                   string
		rule                    string
		notify, highlight       bool
	}{
		{"a message", "m.room.message", "-", `{"body":"hi","msgtype":"m.text"}`, 3, weak, ".m.rule.message", true, false},
		{"a message between two", "m.room.message", "-", `{"body":"hi"}`, 2, weak, ".m.rule.room_one_to_one", true, false},
		{"an encrypted one", "m.room.encrypted", "-", `{"algorithm":"x"}`, 3, weak, ".m.rule.encrypted", true, false},
		{"an encrypted one between two", "m.room.encrypted", "-", `{"algorithm":"x"}`, 2, weak, ".m.rule.encrypted_room_one_to_one", true, false},
		{"a call", "m.call.invite", "-", `{}`, 3, weak, ".m.rule.call", true, false},
		{"a notice", "m.room.message", "-", `{"body":"alice","msgtype":"m.notice"}`, 3, weak, ".m.rule.suppress_notices", false, false},
		{"an invite for alice", "m.room.member", string(alice), `{"membership":"invite"}`, 3, weak, ".m.rule.invite_for_me", true, false},
		{"an invite for another", "m.room.member", "@carol:s.example", `{"membership":"invite"}`, 3, weak, ".m.rule.member_event", false, false},
		{"alice is kicked", "m.room.member", string(alice), `{"membership":"leave"}`, 3, weak, ".m.rule.member_event", false, false},
		{"a mention", "m.room.message", "-", `{"body":"x","m.mentions":{"user_ids":["@carol:x","@alice:s.example"]}}`, 3, weak, ".m.rule.is_user_mention", true, true},
		{"a mention in an edit", "m.room.message", "-", `{"body":"x","m.mentions":{"user_ids":["@alice:s.example"]},"m.relates_to":{"rel_type":"m.replace"}}`, 3, weak, ".m.rule.is_user_mention", true, true},
		{"another is mentioned", "m.room.message", "-", `{"body":"x","m.mentions":{"user_ids":["@carol:x"]}}`, 3, weak, ".m.rule.message", true, false},
		{"mentions that are no list", "m.room.message", "-", `{"body":"x","m.mentions":{"user_ids":"@alice:s.example"}}`, 3, weak, ".m.rule.message", true, false},
		{"the display name", "m.room.message", "-", `{"body":"is alice l. there?"}`, 3, weak, ".m.rule.contains_display_name", true, true},
		{"the display name in a word", "m.room.message", "-", `{"body":"malice l."}`, 3, weak, ".m.rule.message", true, false},
		{"the user name", "m.room.message", "-", `{"body":"ALICE!"}`, 3, weak, ".m.rule.contains_user_name", true, true},
		{"the user name in a word", "m.room.message", "-", `{"body":"alices"}`, 3, weak, ".m.rule.message", true, false},
		{"names do not count beside m.mentions", "m.room.message", "-", `{"body":"alice, Alice L.","m.mentions":{}}`, 3, weak, ".m.rule.message", true, false},
		{"@room in m.mentions, by who may", "m.room.message", "-", `{"body":"x","m.mentions":{"room":true}}`, 3, strong, ".m.rule.is_room_mention", true, true},
		{"@room in m.mentions, by who may not", "m.room.message", "-", `{"body":"x","m.mentions":{"room":true}}`, 3, weak, ".m.rule.message", true, false},
		{"@room where all may", "m.room.message", "-", `{"body":"x","m.mentions":{"room":true}}`, 3, likes, ".m.rule.is_room_mention", true, true},
		{"room: no boolean", "m.room.message", "-", `{"body":"x","m.mentions":{"room":"true"}}`, 3, strong, ".m.rule.message", true, false},
		{"@room in the text", "m.room.message", "-", `{"body":"hey @ROOM!"}`, 3, strong, ".m.rule.roomnotif", true, true},
		{"@room in the text beside m.mentions", "m.room.message", "-", `{"body":"hey @room!","m.mentions":{}}`, 3, strong, ".m.rule.message", true, false},
		{"@room in the text, by who may not", "m.room.message", "-", `{"body":"hey @room!"}`, 3, weak, ".m.rule.message", true, false},
		{"me@room.org", "m.room.message", "-", `{"body":"me@room.org"}`, 3, strong, ".m.rule.message", true, false},
		{"a tombstone", "m.room.tombstone", "", `{}`, 3, weak, ".m.rule.tombstone", true, true},
		{"a tombstone that is no state", "m.room.tombstone", "-", `{}`, 3, weak, "", false, false},
		{"a reaction", "m.reaction", "-", `{"m.relates_to":{"rel_type":"m.annotation","key":"+"}}`, 2, weak, ".m.rule.reaction", false, false},
		{"server ACLs", "m.room.server_acl", "", `{}`, 3, weak, ".m.rule.room.server_acl", false, false},
		{"an edit", "m.room.message", "-", `{"body":"x","m.relates_to":{"rel_type":"m.replace"}}`, 2, weak, ".m.rule.suppress_edits", false, false},
		{"a poll", "org.matrix.msc3381.poll.start", "-", `{}`, 3, weak, ".org.matrix.msc3930.rule.poll_start", true, false},
		{"a poll between two", "org.matrix.msc3381.poll.start", "-", `{}`, 2, weak, ".org.matrix.msc3930.rule.poll_start_one_to_one", true, false},
		{"a vote", "org.matrix.msc3381.poll.response", "-", `{}`, 2, weak, ".org.matrix.msc3930.rule.poll_response", false, false},
		{"a poll's end", "org.matrix.msc3381.poll.end", "-", `{}`, 3, weak, ".org.matrix.msc3930.rule.poll_end", true, false},
		{"a topic", "m.room.topic", "", `{"topic":"alice"}`, 2, weak, "", false, false},
		{"something else", "org.x", "-", `{"body":"alice"}`, 2, weak, ".m.rule.contains_user_name", true, true},
	} {
		o, err := j.Judge(event(t, c.typ, c.key, c.content), facts(c.members, c.power))
		if err != nil || o.Rule != c.rule || o.Notify != c.notify || o.Highlight != c.highlight {
			t.Errorf("%s: %+v %v, want %s %v %v", c.name, o, err, c.rule, c.notify, c.highlight)
		}
	}
	own, err := NewJudge(bob, Default(bob), nil).Judge(event(t, "m.room.message", "-", `{"body":"bob"}`), nil)
	if err != nil || own.Notify {
		t.Errorf("the own message: %+v %v", own, err)
	}
	all := Default(alice)
	all.Override[0].Enabled = true
	o, err := NewJudge(alice, all, nil).Judge(event(t, "m.room.message", "-", `{"body":"alice"}`), facts(2, weak))
	if err != nil || o.Rule != ".m.rule.master" || o.Notify {
		t.Errorf("the master rule: %+v %v", o, err)
	}
}

// TestConditions: one condition, one event.
func TestConditions(t *testing.T) {
	const msg = `{"body":"The quick_brown fox, café_au-lait 42","n":5,"neg":-1,"b":true,"nil":null,"empty":"","list":["a",1,null,{"x":1}],
		"m.dotted":{"a.b":"v","a":{"b":"w"}},"back\\slash":"s","o":{"x":"y"}}`
	e := event(t, "m.room.message", "-", msg)
	for _, c := range []struct {
		condition string
		want      bool
	}{
		// event_match: globs, without regard to case, on the whole value
		{`{"kind":"event_match","key":"type","pattern":"m.room.message"}`, true},
		{`{"kind":"event_match","key":"type","pattern":"M.ROOM.*"}`, true},
		{`{"kind":"event_match","key":"type","pattern":"m.room"}`, false},
		{`{"kind":"event_match","key":"type","pattern":"m.room.messag?"}`, true},
		{`{"kind":"event_match","key":"type","pattern":"m.room.message?"}`, false},
		{`{"kind":"event_match","key":"type","pattern":"*"}`, true},
		{`{"kind":"event_match","key":"type","pattern":""}`, false},
		{`{"kind":"event_match","key":"content.empty","pattern":""}`, true},
		{`{"kind":"event_match","key":"sender","pattern":"@bob:*"}`, true},
		{`{"kind":"event_match","key":"room_id","pattern":"!room:s.example"}`, true},
		{`{"kind":"event_match","key":"state_key","pattern":"*"}`, false}, // there is none
		{`{"kind":"event_match","key":"content.absent","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content.n","pattern":"*"}`, false}, // no string
		{`{"kind":"event_match","key":"content","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"type.x","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"type"}`, false},
		{`{"kind":"event_match","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content.o.x","pattern":"Y"}`, true},
		// dotted paths
		{`{"kind":"event_match","key":"content.m\\.dotted.a\\.b","pattern":"v"}`, true},
		{`{"kind":"event_match","key":"content.m\\.dotted.a.b","pattern":"w"}`, true},
		{`{"kind":"event_match","key":"content.m.dotted.a.b","pattern":"w"}`, false},
		{`{"kind":"event_match","key":"content.back\\\\slash","pattern":"s"}`, true},
		{`{"kind":"event_match","key":"content.back\\slash","pattern":"s"}`, true}, // "\s" stands for itself
		// words of content.body
		{`{"kind":"event_match","key":"content.body","pattern":"FOX"}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":"quick"}`, false}, // _ is a word's character
		{`{"kind":"event_match","key":"content.body","pattern":"quick_brown"}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":"q*n"}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":"fo"}`, false},
		{`{"kind":"event_match","key":"content.body","pattern":"f?x"}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":"caf"}`, true}, // é is none of A-Z a-z 0-9 _
		{`{"kind":"event_match","key":"content.body","pattern":"CAFÉ_au"}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":"lait 4"}`, false},
		{`{"kind":"event_match","key":"content.body","pattern":"the * 42"}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":"*"}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":"?ox"}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":""}`, false},
		// event_property_is: exact, and of the same type
		{`{"kind":"event_property_is","key":"content.n","value":5}`, true},
		{`{"kind":"event_property_is","key":"content.n","value":"5"}`, false},
		{`{"kind":"event_property_is","key":"content.neg","value":-1}`, true},
		{`{"kind":"event_property_is","key":"content.b","value":true}`, true},
		{`{"kind":"event_property_is","key":"content.b","value":"true"}`, false},
		{`{"kind":"event_property_is","key":"content.nil","value":null}`, true},
		{`{"kind":"event_property_is","key":"content.absent","value":null}`, false},
		{`{"kind":"event_property_is","key":"content.empty","value":""}`, true},
		{`{"kind":"event_property_is","key":"type","value":"m.room.message"}`, true},
		{`{"kind":"event_property_is","key":"type","value":"M.room.message"}`, false},
		{`{"kind":"event_property_is","key":"type","value":"m.*"}`, false}, // no glob
		{`{"kind":"event_property_is","key":"content.o","value":{"x":"y"}}`, false},
		{`{"kind":"event_property_is","key":"content.list","value":"a"}`, false},
		// event_property_contains
		{`{"kind":"event_property_contains","key":"content.list","value":"a"}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":"A"}`, false},
		{`{"kind":"event_property_contains","key":"content.list","value":1}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":null}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":true}`, false},
		{`{"kind":"event_property_contains","key":"content.list","value":{"x":1}}`, false},
		{`{"kind":"event_property_contains","key":"content.body","value":"T"}`, false},
		// room_member_count
		{`{"kind":"room_member_count","is":"7"}`, true},
		{`{"kind":"room_member_count","is":"==7"}`, true},
		{`{"kind":"room_member_count","is":"<7"}`, false},
		{`{"kind":"room_member_count","is":"<8"}`, true},
		{`{"kind":"room_member_count","is":">6"}`, true},
		{`{"kind":"room_member_count","is":">7"}`, false},
		{`{"kind":"room_member_count","is":">=7"}`, true},
		{`{"kind":"room_member_count","is":"<=6"}`, false},
		{`{"kind":"room_member_count","is":"=7"}`, false},
		{`{"kind":"room_member_count","is":"=>7"}`, false},
		{`{"kind":"room_member_count","is":"+7"}`, false},
		{`{"kind":"room_member_count","is":""}`, false},
		{`{"kind":"room_member_count","is":"many"}`, false},
		{`{"kind":"room_member_count"}`, false},
		// sender_notification_permission
		{`{"kind":"sender_notification_permission","key":"room"}`, true},
		{`{"kind":"sender_notification_permission","key":"other"}`, true}, // 50 if nothing is said
		{`{"kind":"sender_notification_permission"}`, false},
		// others
		{`{"kind":"contains_display_name"}`, false},
		{`{"kind":"org.example.moon_phase"}`, false},
		{`{"kind":""}`, false},
	} {
		var cond Condition
		if err := json.Unmarshal([]byte(named(c.condition)), &cond); err != nil {
			t.Fatal(c.condition, err)
		}
		for _, kind := range []string{"override", "underride"} {
			var r Rules
			*r.Kind(kind) = []Rule{{ID: "x", Enabled: true, Conditions: []Condition{cond}, Actions: []any{"notify"}}}
			again := Rules{}
			var stored struct {
				Global *Rules `json:"global"`
			}
			stored.Global = &again
			if err := json.Unmarshal(r.Raw(), &stored); err != nil {
				t.Fatal(err)
			}
			for _, rules := range []Rules{r, again} { // also as it was stored
				o, err := NewJudge(alice, rules, nil).Judge(e, facts(7, strong))
				if err != nil || o.Notify != c.want {
					t.Errorf("%s: %v %v", c.condition, o, err)
				}
			}
		}
	}
}

func TestKindsOrderAndActions(t *testing.T) {
	e := event(t, "m.room.message", "-", `{"body":"cake"}`)
	notify := []any{"notify"}
	rule := func(id string, actions ...any) Rule { return Rule{ID: id, Enabled: true, Actions: actions} }
	full := Rules{
		Override: []Rule{rule("o1", "notify"), rule("o2")}, Content: []Rule{{ID: "c", Enabled: true, Pattern: "cake", Actions: notify}},
		Room: []Rule{rule(string(room), "notify")}, Sender: []Rule{rule(string(bob), "notify")}, Underride: []Rule{rule("u", "notify")},
	}
	for _, want := range []string{"o1", "o2", "c", string(room), string(bob), "u", ""} {
		o, err := NewJudge(alice, full, nil).Judge(e, nil)
		if err != nil || o.Rule != want {
			t.Fatalf("%q decided, want %q (%v)", o.Rule, want, err)
		}
		off := func(rs []Rule) {
			for i := range rs {
				if rs[i].ID == want {
					rs[i].Enabled = false
				}
			}
		}
		for _, k := range Kinds {
			off(*full.Kind(k))
		}
	}
	for _, c := range []struct {
		actions           string
		notify, highlight bool
	}{
		{`[]`, false, false},
		{`["dont_notify"]`, false, false},
		{`["coalesce"]`, false, false},
		{`["notify"]`, true, false},
		{`["notify",{"set_tweak":"highlight"}]`, true, true},
		{`["notify",{"set_tweak":"highlight","value":true}]`, true, true},
		{`["notify",{"set_tweak":"highlight","value":false}]`, true, false},
		{`[{"set_tweak":"highlight"}]`, false, false},
		{`["notify",{"set_tweak":"sound","value":"x"},{"odd":1},7]`, true, false},
	} {
		var actions []any
		if err := json.Unmarshal([]byte(c.actions), &actions); err != nil {
			t.Fatal(err)
		}
		o, err := NewJudge(alice, Rules{Override: []Rule{rule("x", actions...)}}, nil).Judge(e, nil)
		if err != nil || o.Notify != c.notify || o.Highlight != c.highlight {
			t.Errorf("%s: %+v %v", c.actions, o, err)
		}
	}
	for _, id := range []string{"!other:x", strings.ToUpper(string(room)), "!room:*"} {
		if o, _ := NewJudge(alice, Rules{Room: []Rule{rule(id, "notify")}}, nil).Judge(e, nil); o.Notify {
			t.Errorf("%s matches %s", id, room)
		}
	}
}

// The matchers against Go's regular expressions, which say the same in another way.
func TestPatternsAgreeWithRegularExpressions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		glob := rapid.StringOfN(rapid.RuneFrom([]rune("abAB*?._ é")), 0, 8, -1).Draw(t, "glob")
		text := rapid.StringOfN(rapid.RuneFrom([]rune("abAB._ é!")), 0, 14, -1).Draw(t, "text")
		expr := regexp.QuoteMeta(strings.ToLower(glob))
		expr = strings.ReplaceAll(strings.ReplaceAll(expr, `\*`, `.*`), `\?`, `.`)
		lower := strings.ToLower(text)
		p := compile(glob)
		if want := regexp.MustCompile(`^(?s:` + expr + `)$`).MatchString(lower); p.whole(text) != want {
			t.Fatalf("whole: %v", !want)
		}
		if glob == "" {
			return
		}
		want := regexp.MustCompile(`(?:^|[^A-Za-z0-9_])(?s:` + expr + `)(?:$|[^A-Za-z0-9_])`).MatchString(lower)
		if p.inWords(folded(text)) != want {
			t.Fatalf("words: %v", !want)
		}
	})
}

func FuzzJudge(f *testing.F) {
	f.Add(string(Default(alice).Raw()), `{"body":"alice","m.mentions":{"user_ids":["@alice:s.example"]}}`)
	f.Add(`{"global":{"override":[{"rule_id":"x","enabled":true,"conditions":[{"kind":"event_match","key":"content.a\\.b.\\\\","pattern":"*a?"}]}]}}`, `{"a.b":{"\\":"xay"}}`)
	f.Fuzz(func(t *testing.T, rules, content string) {
		var stored struct {
			Global Rules `json:"global"`
		}
		if json.Unmarshal([]byte(rules), &stored) != nil {
			return
		}
		p := matrix.Proto{Room: room, Sender: bob, Type: "m.room.message", Content: []byte(content), Depth: 2, Time: time.UnixMilli(1)}
		e, err := matrix.Build("11", p, signer)
		if err != nil {
			return
		}
		o, err := NewJudge(alice, stored.Global, nil).Judge(e, facts(2, strong))
		if err != nil || o.Highlight && !o.Notify {
			t.Fatal(o, err)
		}
		_ = stored.Global.Raw()
	})
}

// TestTextsAreOfTheirEvents: what is shared is what the event says, whoever asked before, and however much was judged since.
func TestTextsAreOfTheirEvents(t *testing.T) {
	var texts Texts
	for i := range 3 * maxTexts / (6 * textCost) {
		name, other := "alice", "bob"
		if i%2 == 1 {
			name, other = other, name
		}
		e := event(t, "m.room.message", "-", fmt.Sprintf(`{"body":"%s %d %s"}`, name, i, strings.Repeat("x", textCost)))
		for range 2 {
			if x := texts.of(e).read(); x.content["body"] != e.ContentString("body") || !literal(name).inWords(x.folded) || literal(other).inWords(x.folded) {
				t.Fatalf("%s was read as %v", e.Content(), x.content)
			}
			if first := texts.of(e); first != texts.of(e) {
				t.Fatal("an event's text is not shared")
			}
		}
		if texts.of(e.Redact()) == texts.of(e) {
			t.Fatal("what a redaction took away is still there")
		}
		if n := len(texts.now) + len(texts.before); n > 2*maxTexts/(6*textCost) {
			t.Fatalf("%d are kept", n)
		}
	}
	if len(texts.before) == 0 {
		t.Fatal("nothing was let go")
	}
}

func BenchmarkJudgeMessage(b *testing.B) {
	e := event(b, "m.room.message", "-", `{"msgtype":"m.text","body":"A message of an ordinary length, as people write them to each other all day long.","m.mentions":{}}`)
	j := NewJudge(alice, Default(alice), &Texts{})
	for b.Loop() {
		if o, err := j.Judge(e, facts(3, "")); err != nil || !o.Notify {
			b.Fatal(o, err)
		}
	}
}
