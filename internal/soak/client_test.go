// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"time"
)

const api = "/_matrix/client/v3"

type object = map[string]any

// client is one user's: what an app keeps. It survives its node's restarts; it speaks to it only through the API.
type client struct {
	n      *node
	token  string
	device string
	since  string
	views  map[string]*view // by room
	txn    int
	olm    *olmDevice
}

// view is what a client was shown of a room.
type view struct {
	joined  bool
	since   time.Time // of this membership
	invited bool
	removed bool           // somebody ended the membership, and the client has not heard of it
	shown   map[string]int // events, and how often they came by /sync
	own     string         // its user's membership by the newest event about it
	ownTime int64          // of that event
}

type shownEvent struct {
	ID       string `json:"event_id"`
	Type     string
	Sender   string
	StateKey *string `json:"state_key"`
	Content  json.RawMessage
	Time     int64 `json:"origin_server_ts"`
}

type syncAnswer struct {
	NextBatch string `json:"next_batch"`
	ToDevice  struct {
		Events []struct {
			Type, Sender string
			Content      json.RawMessage
		}
	} `json:"to_device"`
	DeviceLists struct{ Changed, Left []string } `json:"device_lists"`
	OneTime     map[string]int                   `json:"device_one_time_keys_count"`
	Unused      []string                         `json:"device_unused_fallback_key_types"`
	Rooms       struct {
		Invite map[string]struct{}
		Join   map[string]struct{ Timeline timeline }
		Leave  map[string]struct{ Timeline timeline }
	}
}

type timeline struct {
	Events    []shownEvent
	Limited   bool
	PrevBatch string `json:"prev_batch"`
}

func newClient(n *node) *client {
	c := &client{n: n, views: map[string]*view{}}
	var login struct {
		Token  string `json:"access_token"`
		Device string `json:"device_id"`
	}
	c.need("POST", api+"/login", object{"type": "m.login.password", "identifier": object{"type": "m.id.user", "user": fmt.Sprint("u", n.n)},
		"password": password}, &login)
	c.token, c.device = login.Token, login.Device
	c.olm = newOlmDevice(c)
	return c
}

// ask makes a request. The status is 0 if the node is not up; an answer of 500 or more means that nobody knows what came of it.
func (c *client) ask(method, path string, body, result any) (int, string) {
	if !c.n.up() && c.n.api == nil {
		return 0, "the node is not up"
	}
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		c.n.w.must(err)
		r = bytes.NewReader(b)
	}
	q := httptest.NewRequestWithContext(c.n.w.t.Context(), method, path, r)
	if c.token != "" {
		q.Header.Set("Authorization", "Bearer "+c.token)
	}
	w := httptest.NewRecorder()
	c.n.api.ServeHTTP(w, q)
	if w.Code == http.StatusOK && result != nil {
		c.n.w.must(json.Unmarshal(w.Body.Bytes(), result))
	}
	return w.Code, w.Body.String()
}

// need is ask, and ends the test unless the answer is 200.
func (c *client) need(method, path string, body, result any) {
	c.n.w.t.Helper()
	if status, text := c.ask(method, path, body, result); status != http.StatusOK {
		c.n.w.t.Fatalf("node %d: %s %s: %d %s", c.n.n, method, path, status, text)
	}
}

func (c *client) view(room string) *view {
	v := c.views[room]
	if v == nil {
		v = &view{shown: map[string]int{}}
		c.views[room] = v
	}
	return v
}

var filter = url.QueryEscape(`{"room":{"timeline":{"limit":200}},"presence":{"types":[]}}`)

// look syncs until nothing is new. It tells whether the node answered.
func (c *client) look() bool {
	for {
		path := api + "/sync?timeout=0&filter=" + filter
		if c.since != "" {
			path += "&since=" + url.QueryEscape(c.since)
		}
		var a syncAnswer
		if status, text := c.ask("GET", path, nil, &a); status != http.StatusOK {
			if status != 0 && status < 500 {
				c.n.w.t.Errorf("node %d: sync: %d %s", c.n.n, status, text)
			}
			return false
		}
		c.olm.hear(&a)
		for room := range a.Rooms.Invite {
			c.view(room).invited = true
		}
		for room, r := range a.Rooms.Join {
			v := c.view(room)
			if !v.joined {
				v.joined, v.since, v.invited, v.removed = true, time.Now(), false, false
			}
			c.read(room, v, &r.Timeline)
		}
		for room, r := range a.Rooms.Leave {
			v := c.view(room)
			c.read(room, v, &r.Timeline)
			if v.joined && v.own == "join" {
				if g := c.n.w.gathering(room); g != nil {
					c.n.w.note("room %d, node %d: out by state resolution", g.n, c.n.n)
					c.n.w.outvoted(g, c.n)
				}
			}
			v.joined, v.invited, v.removed = false, false, false
		}
		same := a.NextBatch == c.since
		c.since = a.NextBatch
		if same {
			return true
		}
	}
}

// read takes what a sync shows of a room; what it left out is fetched as clients do that scroll back.
func (c *client) read(room string, v *view, t *timeline) {
	if t.Limited && len(t.Events) > 0 {
		for from := t.PrevBatch; from != ""; {
			var page messagesPage
			if status, _ := c.ask("GET", api+"/rooms/"+url.PathEscape(room)+"/messages?dir=b&limit=200&from="+url.QueryEscape(from), nil, &page); status != http.StatusOK {
				break // it stays a gap; the end will show whether anything is missing
			}
			known := false
			for _, e := range page.Chunk {
				if known = v.shown[e.ID] > 0; known {
					break
				}
				c.event(room, v, &e)
			}
			if from = page.End; known || len(page.Chunk) == 0 {
				break
			}
		}
	}
	for _, e := range t.Events {
		if v.shown[e.ID] > 0 && t.Limited {
			continue // a gap was closed from the other side
		}
		c.event(room, v, &e)
	}
}

type messagesPage struct {
	Chunk []shownEvent
	End   string
}

func (c *client) event(room string, v *view, e *shownEvent) {
	v.shown[e.ID]++
	if v.shown[e.ID] > 1 {
		return
	}
	if e.Type == "m.room.member" && e.StateKey != nil && *e.StateKey == string(c.n.user) && e.Time >= v.ownTime {
		var content struct{ Membership string }
		_ = json.Unmarshal(e.Content, &content)
		v.own, v.ownTime = content.Membership, e.Time
	}
	if text := c.olm.text(room, e); text != "" {
		if m := c.n.w.texts[text]; m != nil {
			c.n.w.heard(c, m)
		}
	}
}

// members are the users that the node shows as joined.
func (c *client) members(room string) (joined map[string]bool, ok bool) {
	var a struct{ Joined map[string]json.RawMessage }
	if status, _ := c.ask("GET", api+"/rooms/"+url.PathEscape(room)+"/joined_members", nil, &a); status != http.StatusOK {
		return nil, false
	}
	joined = map[string]bool{}
	for u := range a.Joined {
		joined[u] = true
	}
	return joined, true
}

func (c *client) nextTxn() string {
	c.txn++
	return fmt.Sprintf("t%d", c.txn)
}
