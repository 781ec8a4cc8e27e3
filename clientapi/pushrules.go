// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/jsontext"
	"encoding/json/v2"

	"tarn/matrix"
)

// pushRule is one rule (C-S API, "Push Rules").
type pushRule struct {
	ID         string          `json:"rule_id"`
	Default    bool            `json:"default"`
	Enabled    bool            `json:"enabled"`
	Pattern    string          `json:"pattern,omitzero"`
	Conditions []pushCondition `json:"conditions,omitzero"` // nil for content rules
	Actions    []any           `json:"actions"`
}

type pushCondition struct {
	Kind    string  `json:"kind"`
	Key     string  `json:"key,omitzero"`
	Pattern *string `json:"pattern,omitzero"`
	Value   any     `json:"value,omitempty"`
	Is      string  `json:"is,omitzero"`
}

// ruleset is the "global" set.
type ruleset struct {
	Override  []pushRule `json:"override"`
	Content   []pushRule `json:"content"`
	Room      []pushRule `json:"room"`
	Sender    []pushRule `json:"sender"`
	Underride []pushRule `json:"underride"`
}

// kind finds the rules of a kind; nil: there is no such kind.
func (s *ruleset) kind(name string) *[]pushRule {
	switch name {
	case "override":
		return &s.Override
	case "content":
		return &s.Content
	case "room":
		return &s.Room
	case "sender":
		return &s.Sender
	case "underride":
		return &s.Underride
	}
	return nil
}

var pushKinds = []string{"override", "content", "room", "sender", "underride"}

// raw is the content of m.push_rules.
func (s ruleset) raw() jsontext.Value {
	b, err := json.Marshal(map[string]ruleset{"global": s})
	if err != nil { // made of strings and booleans only
		panic(err)
	}
	return b
}

// defaultRules are the spec's "Predefined Rules" (v1.12), for user.
func defaultRules(user matrix.UserID) ruleset {
	tweak := func(name string, value ...any) map[string]any {
		m := map[string]any{"set_tweak": name}
		if len(value) > 0 {
			m["value"] = value[0]
		}
		return m
	}
	sound, highlight := tweak("sound", "default"), tweak("highlight")
	match := func(key, pattern string) pushCondition {
		return pushCondition{Kind: "event_match", Key: key, Pattern: &pattern}
	}
	is := func(key string, value any) pushCondition {
		return pushCondition{Kind: "event_property_is", Key: key, Value: value}
	}
	mayNotify := pushCondition{Kind: "sender_notification_permission", Key: "room"}
	pair := pushCondition{Kind: "room_member_count", Is: "2"}
	rule := func(id string, actions []any, conditions ...pushCondition) pushRule {
		return pushRule{ID: id, Default: true, Enabled: true, Actions: actions, Conditions: append([]pushCondition{}, conditions...)}
	}
	master := rule(".m.rule.master", nil)
	master.Enabled = false
	name := rule(".m.rule.contains_user_name", []any{"notify", sound, highlight})
	name.Pattern, name.Conditions = user.Localpart(), nil
	return ruleset{
		Override: []pushRule{
			master,
			rule(".m.rule.suppress_notices", nil, match("content.msgtype", "m.notice")),
			rule(".m.rule.invite_for_me", []any{"notify", sound},
				match("type", "m.room.member"), match("content.membership", "invite"), match("state_key", string(user))),
			rule(".m.rule.member_event", nil, match("type", "m.room.member")),
			rule(".m.rule.is_user_mention", []any{"notify", sound, highlight},
				pushCondition{Kind: "event_property_contains", Key: `content.m\.mentions.user_ids`, Value: user}),
			rule(".m.rule.contains_display_name", []any{"notify", sound, highlight}, pushCondition{Kind: "contains_display_name"}),
			rule(".m.rule.is_room_mention", []any{"notify", highlight}, is(`content.m\.mentions.room`, true), mayNotify),
			rule(".m.rule.roomnotif", []any{"notify", highlight}, match("content.body", "@room"), mayNotify),
			rule(".m.rule.tombstone", []any{"notify", highlight}, match("type", "m.room.tombstone"), match("state_key", "")),
			rule(".m.rule.reaction", nil, match("type", "m.reaction")),
			rule(".m.rule.room.server_acl", nil, match("type", "m.room.server_acl"), match("state_key", "")),
			rule(".m.rule.suppress_edits", nil, is(`content.m\.relates_to.rel_type`, "m.replace")),
		},
		Content: []pushRule{name},
		Underride: []pushRule{
			rule(".m.rule.call", []any{"notify", tweak("sound", "ring")}, match("type", "m.call.invite")),
			rule(".m.rule.encrypted_room_one_to_one", []any{"notify", sound}, pair, match("type", "m.room.encrypted")),
			rule(".m.rule.room_one_to_one", []any{"notify", sound}, pair, match("type", "m.room.message")),
			rule(".m.rule.message", []any{"notify"}, match("type", "m.room.message")),
			rule(".m.rule.encrypted", []any{"notify"}, match("type", "m.room.encrypted")),
		},
	}
}
