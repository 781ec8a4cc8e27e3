// SPDX-License-Identifier: Apache-2.0

package push

import (
	"encoding/json/v2"
	"slices"
	"strconv"
	"strings"

	"tarn/matrix"
)

// Facts are what conditions ask of the room, as it is when the event is judged.
type Facts struct {
	Members     int    // joined
	DisplayName string // the user's, in the room; "": none
	Power       *matrix.PowerLevels
	Threads     func(room matrix.RoomID, root matrix.EventID) (Following, error) // nil: no subscriptions to threads
}

// Following is what a thread is to a user.
type Following byte

// What Facts.Threads answers. A user who never subscribed to any thread has clients that know nothing of it: then none of the rules about
// it counts, or they would hear of no thread at all.
const (
	NeverAsked Following = iota
	Subscribed
	Unsubscribed
)

// Outcome is what an event means to the user.
type Outcome struct {
	Notify    bool
	Highlight bool
	Rule      string // the one that decided; "": none did
	Actions   []any  // its
}

// Judge is a user's rules, made ready. Safe for concurrent use.
type Judge struct {
	user  matrix.UserID
	rules []judged
	texts *Texts
}

type judged struct {
	Rule
	legacy     bool // does not count if the event says whom it mentions
	conditions []condition
}

// condition is a Condition, read once.
type condition struct {
	kind    string
	path    []string
	pattern pattern
	body    bool // of content.body: words
	value   any
	op      string
	number  int64
	key     string
	thread  Following
}

// NewJudge makes rules ready. Disabled ones, and those with a condition that is not understood, are left out: they never match. What
// is read of an event is shared by judges with the same texts; nil: by none.
func NewJudge(user matrix.UserID, r Rules, texts *Texts) *Judge {
	j := &Judge{user: user, texts: texts}
	for _, kind := range Kinds {
	rules:
		for _, rule := range *r.Kind(kind) {
			if !rule.Enabled {
				continue
			}
			x := judged{Rule: rule}
			switch rule.ID {
			case ".m.rule.contains_display_name", ".m.rule.contains_user_name", ".m.rule.roomnotif":
				x.legacy = rule.Default
			}
			conditions := rule.Conditions
			switch kind { // C-S API, "Push Rules": what the kinds stand for
			case "content":
				conditions = []Condition{{Kind: "event_match", Key: "content.body", Pattern: &rule.Pattern}}
			case "room":
				conditions = []Condition{{Kind: "event_property_is", Key: "room_id", Value: plain(rule.ID)}}
			case "sender":
				conditions = []Condition{{Kind: "event_property_is", Key: "sender", Value: plain(rule.ID)}}
			}
			for _, c := range conditions {
				y, ok := read(c)
				if !ok {
					continue rules
				}
				x.conditions = append(x.conditions, y)
			}
			j.rules = append(j.rules, x)
		}
	}
	return j
}

// read makes a condition ready; false: nothing can match it.
func read(c Condition) (out condition, ok bool) {
	out = condition{kind: c.Kind, path: path(c.Key), key: c.Key}
	switch c.Kind {
	case "event_match":
		if c.Key == "" || c.Pattern == nil {
			return out, false
		}
		out.pattern, out.body = compile(*c.Pattern), c.Key == "content.body"
	case "event_property_is", "event_property_contains":
		if c.Key == "" || c.Value == nil || json.Unmarshal(c.Value, &out.value) != nil {
			return out, false
		}
		switch out.value.(type) {
		case nil, bool, string, float64:
		default:
			return out, false
		}
	case "contains_display_name":
	case "room_member_count":
		digits := strings.TrimLeft(c.Is, "<>=")
		out.op = c.Is[:len(c.Is)-len(digits)]
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || digits[0] == '+' || digits[0] == '-' || !slices.Contains([]string{"", "==", "<", ">", "<=", ">="}, out.op) {
			return out, false
		}
		out.number = n
	case "sender_notification_permission":
		if c.Key == "" {
			return out, false
		}
	case "io.element.msc4306.thread_subscription", "thread_subscription":
		if c.Subscribed == nil {
			return out, false
		}
		out.thread = Unsubscribed
		if *c.Subscribed {
			out.thread = Subscribed
		}
	default:
		return out, false // "Unrecognised conditions MUST NOT match any events"
	}
	return out, true
}

// Judge tells what e means. facts is asked at most once, and only if a condition wants it. The user's own events mean nothing.
func (j *Judge) Judge(e *matrix.Event, facts func() (Facts, error)) (Outcome, error) {
	if e.Sender() == j.user {
		return Outcome{}, nil
	}
	v := view{e: e, ask: facts, text: j.texts.of(e)}
	for i := range j.rules {
		r := &j.rules[i]
		if r.legacy && v.mentions() {
			continue
		}
		ok, err := v.all(r.conditions)
		if err != nil {
			return Outcome{}, err
		}
		if ok {
			o := Outcome{Rule: r.ID, Actions: r.Actions}
			o.Notify, o.Highlight = decide(r.Actions)
			return o, nil
		}
	}
	return Outcome{}, nil
}

// decide reads actions (C-S API, "Actions"); those not known are ignored, dont_notify and coalesce of old times among them.
func decide(actions []any) (notify, highlight bool) {
	for _, a := range actions {
		switch a := a.(type) {
		case string:
			notify = notify || a == "notify"
		case map[string]any:
			if a["set_tweak"] == "highlight" {
				v, given := a["value"]
				highlight = !given || v == true
			}
		}
	}
	return notify, notify && highlight
}

// view is an event under judgement.
type view struct {
	e     *matrix.Event
	ask   func() (Facts, error)
	facts *Facts
	text  *text
}

func (v *view) body() map[string]any { return v.text.read().content }

// words is content.body, folded; nil if it is not there.
func (v *view) words() []rune { return v.text.read().folded }

// mentions says whether the event tells whom it mentions (C-S API, "User and room mentions").
func (v *view) mentions() bool {
	_, ok := v.body()["m.mentions"]
	return ok
}

// thread is the root of the thread that the event is part of; "": of none.
func (v *view) thread() matrix.EventID {
	to, _ := v.body()["m.relates_to"].(map[string]any)
	root, _ := to["event_id"].(string)
	if to["rel_type"] != matrix.RelThread {
		return ""
	}
	return matrix.EventID(root)
}

// property finds what a path leads to.
func (v *view) property(path []string) (any, bool) {
	if path[0] != "content" {
		s, ok := v.head(path)
		return s, ok
	}
	var at any = v.body()
	for _, name := range path[1:] {
		o, ok := at.(map[string]any)
		if !ok {
			return nil, false
		}
		if at, ok = o[name]; !ok {
			return nil, false
		}
	}
	return at, true
}

// head is property beside the content.
func (v *view) head(path []string) (string, bool) {
	if len(path) != 1 {
		return "", false
	}
	switch path[0] {
	case "type":
		return v.e.Type(), true
	case "sender":
		return string(v.e.Sender()), true
	case "room_id":
		return string(v.e.Room()), true
	case "event_id":
		return string(v.e.ID()), true
	case "state_key":
		if k := v.e.StateKey(); k != nil {
			return *k, true
		}
	}
	return "", false
}

// string is property where it is a text.
func (v *view) string(path []string) (string, bool) {
	if path[0] != "content" {
		return v.head(path)
	}
	x, _ := v.property(path)
	s, ok := x.(string)
	return s, ok
}

func (v *view) all(conditions []condition) (bool, error) {
	for i := range conditions {
		if ok, err := v.holds(&conditions[i]); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (v *view) holds(c *condition) (bool, error) {
	switch c.kind {
	case "event_match":
		s, ok := v.string(c.path)
		if !ok {
			return false, nil
		}
		if c.body {
			return c.pattern.inWords(v.words()), nil
		}
		return c.pattern.whole(s), nil
	case "event_property_is":
		x, ok := v.property(c.path)
		return ok && same(x, c.value), nil
	case "event_property_contains":
		x, _ := v.property(c.path)
		list, _ := x.([]any)
		return slices.ContainsFunc(list, func(x any) bool { return same(x, c.value) }), nil
	}
	if c.thread != NeverAsked && v.thread() == "" {
		return false, nil
	}
	if v.facts == nil {
		f, err := v.ask()
		if err != nil {
			return false, err
		}
		v.facts = &f
	}
	switch c.kind {
	case "contains_display_name":
		return v.facts.DisplayName != "" && literal(v.facts.DisplayName).inWords(v.words()), nil
	case "room_member_count":
		n := int64(v.facts.Members)
		switch c.op {
		case "<":
			return n < c.number, nil
		case ">":
			return n > c.number, nil
		case "<=":
			return n <= c.number, nil
		case ">=":
			return n >= c.number, nil
		}
		return n == c.number, nil
	case "io.element.msc4306.thread_subscription", "thread_subscription":
		if v.facts.Threads == nil {
			return false, nil
		}
		now, err := v.facts.Threads(v.e.Room(), v.thread())
		return now == c.thread, err
	default: // sender_notification_permission
		return v.facts.Power != nil && v.facts.Power.User(v.e.Sender()) >= v.facts.Power.Notification(c.key), nil
	}
}

// same compares plain JSON values; what is none equals nothing.
func same(a, b any) bool {
	switch a.(type) {
	case nil, bool, string, float64:
		return a == b
	}
	return false
}
