// SPDX-License-Identifier: Apache-2.0

// Package push decides what an event means to a user: nothing, a notification, or one that is highlighted (C-S API, "Push Rules").
//
// Problem: the rules are data that clients edit, with a small language of conditions whose corners (globs, word boundaries,
// escaped paths, what m.mentions switches off) clients evaluate too: a server that differs shows other counts than
// they do.
//
// Invariants: pure, nothing is kept; a rule that is not understood never matches; a pattern costs at most its length times
// the text's.
package push

import (
	"encoding/json/jsontext"
	"encoding/json/v2"

	"tarn/matrix"
)

// Rule is one push rule.
type Rule struct {
	ID         string      `json:"rule_id"`
	Default    bool        `json:"default"`
	Enabled    bool        `json:"enabled"`
	Pattern    string      `json:"pattern,omitzero"`
	Conditions []Condition `json:"conditions,omitzero"` // nil for content rules
	Actions    []any       `json:"actions"`
}

// Condition is one condition of a rule: all must hold.
type Condition struct {
	Kind    string         `json:"kind"`
	Key     string         `json:"key,omitzero"`
	Pattern *string        `json:"pattern,omitzero"`
	Value   jsontext.Value `json:"value,omitzero"` // null is a value, too
	Is      string         `json:"is,omitzero"`
	// Subscribed is of thread_subscription (MSC4306).
	Subscribed *bool          `json:"subscribed,omitzero"`
	Rest       jsontext.Value `json:",unknown"` // what conditions that are not known here have: a client gets its rule back as it wrote it
}

// plain is the JSON of a string or a boolean.
func plain(v any) jsontext.Value {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // of our own constants and ids
	}
	return b
}

// Rules is a user's "global" set: the kinds in the order in which they are asked.
type Rules struct {
	Override []Rule `json:"override"`
	Content  []Rule `json:"content"`
	// PostContent are the server's own rules about threads: between content and room, of conditions of any kind (MSC4306). Nobody adds to them.
	PostContent []Rule `json:"postcontent"`
	Room        []Rule `json:"room"`
	Sender      []Rule `json:"sender"`
	Underride   []Rule `json:"underride"`
}

// Kinds are the names that Rules.Kind knows, in order.
var Kinds = []string{"override", "content", "postcontent", "room", "sender", "underride"}

// Kind finds the rules of a kind; nil: there is no such kind.
func (s *Rules) Kind(name string) *[]Rule {
	switch name {
	case "override":
		return &s.Override
	case "content":
		return &s.Content
	case "postcontent":
		return &s.PostContent
	case "room":
		return &s.Room
	case "sender":
		return &s.Sender
	case "underride":
		return &s.Underride
	}
	return nil
}

// Raw is the content of m.push_rules.
func (s Rules) Raw() jsontext.Value {
	b, err := json.Marshal(map[string]Rules{"global": s})
	if err != nil { // made of what JSON gave
		panic(err)
	}
	return b
}

// Default is the spec's "Predefined Rules" (v1.16) for user, and those for polls (MSC3930, whose names clients know with their unstable
// prefix only).
func Default(user matrix.UserID) Rules {
	tweak := func(name string, value ...any) map[string]any {
		m := map[string]any{"set_tweak": name}
		if len(value) > 0 {
			m["value"] = value[0]
		}
		return m
	}
	sound, highlight := tweak("sound", "default"), tweak("highlight")
	match := func(key, pattern string) Condition {
		return Condition{Kind: "event_match", Key: key, Pattern: &pattern}
	}
	is := func(key string, value any) Condition {
		return Condition{Kind: "event_property_is", Key: key, Value: plain(value)}
	}
	thread := func(subscribed bool) Condition {
		return Condition{Kind: "io.element.msc4306.thread_subscription", Subscribed: &subscribed}
	}
	mayNotify := Condition{Kind: "sender_notification_permission", Key: "room"}
	pair := Condition{Kind: "room_member_count", Is: "2"}
	rule := func(id string, actions []any, conditions ...Condition) Rule {
		if actions == nil {
			actions = []any{} // never null
		}
		return Rule{ID: id, Default: true, Enabled: true, Actions: actions, Conditions: append([]Condition{}, conditions...)}
	}
	master := rule(".m.rule.master", nil)
	master.Enabled = false
	name := rule(".m.rule.contains_user_name", []any{"notify", sound, highlight})
	name.Pattern, name.Conditions = user.Localpart(), nil
	return Rules{
		Override: []Rule{
			master,
			rule(".m.rule.suppress_notices", nil, match("content.msgtype", "m.notice")),
			rule(".m.rule.invite_for_me", []any{"notify", sound},
				match("type", "m.room.member"), match("content.membership", "invite"), match("state_key", string(user))),
			rule(".m.rule.member_event", nil, match("type", "m.room.member")),
			rule(".m.rule.is_user_mention", []any{"notify", sound, highlight},
				Condition{Kind: "event_property_contains", Key: `content.m\.mentions.user_ids`, Value: plain(user)}),
			rule(".m.rule.contains_display_name", []any{"notify", sound, highlight}, Condition{Kind: "contains_display_name"}),
			rule(".m.rule.is_room_mention", []any{"notify", highlight}, is(`content.m\.mentions.room`, true), mayNotify),
			rule(".m.rule.roomnotif", []any{"notify", highlight}, match("content.body", "@room"), mayNotify),
			rule(".m.rule.tombstone", []any{"notify", highlight}, match("type", "m.room.tombstone"), match("state_key", "")),
			rule(".m.rule.reaction", nil, match("type", "m.reaction")),
			rule(".m.rule.room.server_acl", nil, match("type", "m.room.server_acl"), match("state_key", "")),
			rule(".org.matrix.msc3930.rule.poll_response", nil, match("type", "org.matrix.msc3381.poll.response")),
			rule(".m.rule.suppress_edits", nil, is(`content.m\.relates_to.rel_type`, "m.replace")),
		},
		Content: []Rule{name},
		PostContent: []Rule{
			rule(".io.element.msc4306.rule.unsubscribed_thread", nil, thread(false)),
			rule(".io.element.msc4306.rule.subscribed_thread", []any{"notify", sound}, thread(true)),
		},
		Underride: []Rule{
			rule(".m.rule.call", []any{"notify", tweak("sound", "ring")}, match("type", "m.call.invite")),
			rule(".m.rule.encrypted_room_one_to_one", []any{"notify", sound}, pair, match("type", "m.room.encrypted")),
			rule(".m.rule.room_one_to_one", []any{"notify", sound}, pair, match("type", "m.room.message")),
			rule(".m.rule.message", []any{"notify"}, match("type", "m.room.message")),
			rule(".m.rule.encrypted", []any{"notify"}, match("type", "m.room.encrypted")),
			rule(".org.matrix.msc3930.rule.poll_start_one_to_one", []any{"notify", sound}, pair, match("type", "org.matrix.msc3381.poll.start")),
			rule(".org.matrix.msc3930.rule.poll_start", []any{"notify"}, match("type", "org.matrix.msc3381.poll.start")),
			rule(".org.matrix.msc3930.rule.poll_end_one_to_one", []any{"notify", sound}, pair, match("type", "org.matrix.msc3381.poll.end")),
			rule(".org.matrix.msc3930.rule.poll_end", []any{"notify"}, match("type", "org.matrix.msc3381.poll.end")),
		},
	}
}
