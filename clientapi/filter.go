// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
	"errors"
	"slices"
	"strings"

	"tarn/account"
	"tarn/matrix"
	"tarn/room"
)

// Bounds of a filter: each event is matched against each entry.
const (
	maxFilterEntries = 1000
	maxTimeline      = 500 // events of one room in one /sync
	defaultTimeline  = 20
)

// eventFilter is the spec's EventFilter and RoomEventFilter. A nil list allows all, an empty one nothing.
type eventFilter struct {
	Limit       *int      `json:"limit"`
	Types       *[]string `json:"types"`
	NotTypes    []string  `json:"not_types"`
	Senders     *[]string `json:"senders"`
	NotSenders  []string  `json:"not_senders"`
	Rooms       *[]string `json:"rooms"`
	NotRooms    []string  `json:"not_rooms"`
	ContainsURL *bool     `json:"contains_url"`
	LazyLoad    bool      `json:"lazy_load_members"`
	Redundant   bool      `json:"include_redundant_members"` // implied: what a client was given before is not remembered
	UnreadPer   bool      `json:"unread_thread_notifications"`
	RelTypes    []string  `json:"related_by_rel_types"`
	RelSenders  []string  `json:"related_by_senders"`
}

// syncFilter is the spec's Filter. event_fields is read and left aside: "a server may include more fields".
type syncFilter struct {
	EventFields []string    `json:"event_fields"`
	EventFormat string      `json:"event_format"`
	Presence    eventFilter `json:"presence"`
	AccountData eventFilter `json:"account_data"`
	Room        struct {
		Rooms        *[]string   `json:"rooms"`
		NotRooms     []string    `json:"not_rooms"`
		IncludeLeave bool        `json:"include_leave"`
		Ephemeral    eventFilter `json:"ephemeral"`
		State        eventFilter `json:"state"`
		Timeline     eventFilter `json:"timeline"`
		AccountData  eventFilter `json:"account_data"`
	} `json:"room"`
}

// parseFilter checks a filter: types, and bounds of work.
func parseFilter(raw []byte) (*syncFilter, error) {
	f := &syncFilter{}
	if err := decode(raw, f); err != nil {
		return nil, err
	}
	switch f.EventFormat {
	case "", "client":
	default:
		return nil, invalid("event_format must be client")
	}
	r := &f.Room
	if len(r.NotRooms) > maxFilterEntries || r.Rooms != nil && len(*r.Rooms) > maxFilterEntries {
		return nil, invalid("a filter may have at most %d entries in a list", maxFilterEntries)
	}
	for _, e := range []*eventFilter{&f.Presence, &f.AccountData, &r.Ephemeral, &r.State, &r.Timeline, &r.AccountData} {
		if err := e.check(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// parseRoomEventFilter reads the filter of /messages and /context; "" allows all.
func parseRoomEventFilter(s string) (*eventFilter, error) {
	f := &eventFilter{}
	if s == "" {
		return f, nil
	}
	if err := decode([]byte(s), f); err != nil {
		return nil, err
	}
	return f, f.check()
}

func (f *eventFilter) check() error {
	for _, l := range [][]string{f.RelTypes, f.RelSenders, f.NotTypes, f.NotSenders, f.NotRooms, orNone(f.Types), orNone(f.Senders), orNone(f.Rooms)} {
		if len(l) > maxFilterEntries {
			return invalid("a filter may have at most %d entries in a list", maxFilterEntries)
		}
	}
	if f.Limit != nil {
		if *f.Limit < 0 {
			return invalid("limit must not be negative")
		}
		*f.Limit = max(*f.Limit, 1)
	}
	return nil
}

func orNone(l *[]string) []string {
	if l == nil {
		return nil
	}
	return *l
}

// all says that the filter lets everything through.
func (f *eventFilter) all() bool {
	return f.Types == nil && f.NotTypes == nil && f.Senders == nil && f.NotSenders == nil && f.Rooms == nil &&
		f.NotRooms == nil && f.ContainsURL == nil && len(f.RelTypes)+len(f.RelSenders) == 0
}

// keeps tells whether an event passes. Exclusions win ("not_types ... takes precedence").
func (f *eventFilter) keeps(e *matrix.Event) bool {
	if !f.keepsType(e.Type()) || !f.keepsRoom(e.Room()) || !allows(f.Senders, f.NotSenders, string(e.Sender())) {
		return false
	}
	return f.ContainsURL == nil || *f.ContainsURL == containsURL(e.Content())
}

// keepsEntry is keeps for what others may relate to.
func (f *eventFilter) keepsEntry(e room.Entry) bool {
	return f.keeps(e.Event) && (len(f.RelTypes)+len(f.RelSenders) == 0 || e.RelatedBy(f.RelTypes, f.RelSenders))
}

func (f *eventFilter) keepsRoom(r matrix.RoomID) bool { return allows(f.Rooms, f.NotRooms, string(r)) }

// keepsType matches with "*" as a wild card for any characters, in both lists.
func (f *eventFilter) keepsType(typ string) bool {
	match := func(pattern string) bool { return glob(pattern, typ) }
	return !slices.ContainsFunc(f.NotTypes, match) && (f.Types == nil || slices.ContainsFunc(*f.Types, match))
}

func (f *eventFilter) events(in []*matrix.Event) []*matrix.Event {
	if f.all() {
		return in
	}
	out := make([]*matrix.Event, 0, len(in))
	for _, e := range in {
		if f.keeps(e) {
			out = append(out, e)
		}
	}
	return out
}

func allows(only *[]string, not []string, s string) bool {
	return !slices.Contains(not, s) && (only == nil || slices.Contains(*only, s))
}

// glob matches "*" only, in time of at most the product of the lengths.
func glob(pattern, s string) bool {
	first, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == s
	}
	s, found := strings.CutPrefix(s, first)
	if !found {
		return false
	}
	for {
		part, more, wild := strings.Cut(rest, "*")
		if !wild {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part) // the leftmost place leaves the most for the rest
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}

// containsURL: "a url key in its content".
func containsURL(content []byte) bool {
	var q struct {
		URL jsontext.Value `json:"url"`
	}
	return json.Unmarshal(content, &q) == nil && q.URL.Kind() == '"'
}

// addFilter: POST /user/{userId}/filter.
func (a *API) addFilter(c *call) (any, error) {
	if err := c.self(); err != nil {
		return nil, err
	}
	raw, err := c.object()
	if err != nil {
		return nil, err
	}
	if _, err := parseFilter(raw); err != nil {
		return nil, err
	}
	id, err := a.accounts.AddFilter(c.who.User, raw)
	if err != nil {
		return nil, err
	}
	return map[string]string{"filter_id": id}, nil
}

// getFilter: GET /user/{userId}/filter/{filterId}.
func (a *API) getFilter(c *call) (any, error) {
	if err := c.self(); err != nil {
		return nil, err
	}
	raw, err := a.accounts.Filter(c.who.User, c.path("filter"))
	if err != nil {
		return nil, err
	}
	return raw, nil
}

// filterOf reads /sync's filter: an id, or the filter itself ("may be ... a filter JSON object encoded as a string").
func (a *API) filterOf(c *call) (*syncFilter, error) {
	s := c.query("filter")
	switch {
	case s == "":
		return &syncFilter{}, nil
	case s[0] == '{':
		return parseFilter([]byte(s))
	}
	raw, err := a.accounts.Filter(c.who.User, s)
	if errors.Is(err, account.ErrNotFound) {
		return nil, invalid("there is no such filter")
	}
	if err != nil {
		return nil, err
	}
	return parseFilter(raw)
}
