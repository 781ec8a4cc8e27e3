// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// seen is what a node shows of a room through the API.
type seen struct {
	state  map[string]string // by type and state key: the event
	events map[string]int    // by id, back to the beginning: how often
	texts  map[string]int    // of messages that its client can read
	story  []string          // its memberships, the newest first
}

// lookAt asks a node for all it shows of a room; nil if its user is not in it.
func (w *world) lookAt(n *node, room string) *seen {
	c := n.client
	var state []struct {
		shownEvent
		ID string `json:"event_id"`
	}
	if status, _ := c.ask("GET", api+"/rooms/"+escape(room)+"/state", nil, &state); status != http.StatusOK {
		return nil
	}
	s := &seen{state: map[string]string{}, events: map[string]int{}, texts: map[string]int{}}
	own := "m.room.member " + string(n.user)
	for _, e := range state {
		key := e.Type + " "
		if e.StateKey != nil {
			key += *e.StateKey
		}
		s.state[key] = e.ID
		if key == own && !strings.Contains(string(e.Content), `"join"`) {
			return nil
		}
	}
	if s.state[own] == "" {
		return nil
	}
	for from := ""; ; {
		var page messagesPage
		path := api + "/rooms/" + escape(room) + "/messages?dir=b&limit=500"
		if from != "" {
			path += "&from=" + from
		}
		c.need("GET", path, nil, &page)
		for _, e := range page.Chunk {
			s.events[e.ID]++
			if e.StateKey != nil && e.Type == "m.room.member" {
				var c struct{ Membership string }
				_ = json.Unmarshal(e.Content, &c)
				s.story = append(s.story, fmt.Sprintf("%.9s: %.9s %s %.9s at %v", e.ID, e.Sender, c.Membership, *e.StateKey, time.UnixMilli(e.Time).Sub(w.start).Truncate(time.Second)))
			}
			if t := c.olm.text(room, &e); w.texts[t] != nil { // others are a liar's
				s.texts[t]++
			}
		}
		if from = page.End; from == "" {
			return s
		}
	}
}

// finding is something that is wrong.
type finding struct {
	what string
	room *gathering
	node *node
	more string
}

func (f finding) String() string {
	return fmt.Sprintf("%s: room %d (%s, version %s, %s, encrypted %v) at node %d: %s", f.what, f.room.n, f.room.id, f.room.version, f.room.visibility, f.room.encrypted, f.node.n, f.more)
}

// judge compares all nodes. It asks only the API.
func (w *world) judge(r *Result) (found []finding) {
	r.Lost, r.Doubled, r.Undecryptable, r.Diverged, r.Shown, r.History, r.Contested, r.Keyless = 0, 0, 0, 0, 0, 0, 0, 0
	byRoom := map[*gathering][]*message{}
	for _, m := range w.said {
		if m.id != "" {
			byRoom[m.room] = append(byRoom[m.room], m)
			if m.contested {
				r.Contested++
			}
		}
	}
	for _, g := range w.rooms {
		views := map[*node]*seen{}
		for _, n := range w.nodes[w.size.hostile:] { // what the others show of themselves is their affair
			if n.client.views[g.id] == nil {
				continue
			}
			if s := w.lookAt(n, g.id); s != nil {
				views[n] = s
			}
		}
		add := func(what string, n *node, format string, args ...any) {
			found = append(found, finding{what, g, n, fmt.Sprintf(format, args...)})
		}
		w.states(g, views, add, r)
		for _, n := range w.nodes {
			s := views[n]
			if s == nil {
				continue
			}
			for _, id := range slices.Sorted(maps.Keys(s.events)) {
				if s.events[id] > 1 {
					add("doubled", n, "event %s %d times", id, s.events[id])
					r.Doubled++
				}
			}
			for text, k := range s.texts {
				if k > 1 {
					add("doubled", n, "%q %d times", text, k)
					r.Doubled++
				}
			}
			lost := r.Lost + r.Undecryptable
			for _, m := range byRoom[g] {
				w.one(m, n, s, add, r)
			}
			if r.Lost+r.Undecryptable > lost && w.last && w.size.verbose {
				w.explain(g, n, views)
			}
		}
	}
	return found
}

// explain says what is known of a room in which a node lacks messages.
func (w *world) explain(g *gathering, n *node, views map[*node]*seen) {
	for x, s := range views {
		w.note("room %d as node %d (%.9s) shows it: %d events", g.n, x.n, x.user, len(s.events))
		for _, line := range s.story { // newest first
			w.note("    %s", line)
		}
	}
	for x := range views {
		w.note("node %d has the contacts %v", x.n, x.contacts)
	}
	for _, m := range w.said {
		if m.room == g && m.id != "" && views[n].events[m.id] > 0 && views[n].texts[m.text] == 0 {
			for x, s := range views {
				w.note("  %s of node %d: at node %d %d times, read %d times", m.text, m.from.n, x.n, s.events[m.id], s.texts[m.text])
			}
		}
		if m.room == g && m.id != "" && views[n].events[m.id] == 0 {
			status, text := n.client.ask("GET", api+"/rooms/"+escape(g.id)+"/event/"+m.id, nil, nil)
			w.note("  lacks %s of node %d at %v: %d %.100s", m.text, m.from.n, m.at.Sub(w.start).Truncate(time.Second), status, text)
			for x, s := range views {
				w.note("      node %d has it: %d", x.n, s.events[m.id])
			}
		}
	}
}

// states: whoever shows itself as joined shows the same state as the others that the state says are joined, and they it.
func (w *world) states(g *gathering, views map[*node]*seen, add func(string, *node, string, ...any), r *Result) {
	var first *node
	for _, n := range w.nodes {
		s := views[n]
		if s == nil {
			continue
		}
		if first == nil {
			first = n
			continue
		}
		if diff := differ(views[first].state, s.state); diff != "" {
			add("diverged", n, "its state is not node %d's: %s", first.n, diff)
			r.Diverged++
		}
	}
}

func differ(a, b map[string]string) string {
	var out []string
	for k := range maps.Keys(a) {
		if a[k] != b[k] {
			out = append(out, fmt.Sprintf("%s %.12s/%.12s", k, a[k], b[k]))
		}
	}
	for k := range maps.Keys(b) {
		if a[k] == "" {
			out = append(out, fmt.Sprintf("%s -/%.12s", k, b[k]))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// one looks whether a node shows a message that it has to.
func (w *world) one(m *message, n *node, s *seen, add func(string, *node, string, ...any), r *Result) {
	v := n.client.views[m.room.id]
	member := m.members[string(n.user)]
	continuous := v.joined && !v.since.After(m.at)
	must := continuous && (member || m.room.visibility == "shared") || n == m.from
	may := m.room.visibility == "shared" || member
	switch {
	case m.contested:
		return
	case s.events[m.id] == 0 && must:
		r.Lost++
		add("lost", n, "%s %s of node %d, said at %v; a member by its sender: %v, joined since %v", m.text, m.id, m.from.n, m.at.Sub(w.start), member, v.since.Sub(w.start))
		return
	case s.events[m.id] == 0:
		if may {
			r.History++
		}
		return
	}
	if must {
		r.Shown++
	}
	if !m.room.encrypted {
		if s.texts[m.text] == 0 && must {
			r.Undecryptable++
			add("empty", n, "%s %s of node %d, said at %v, joined since %v, is shown without its text", m.text, m.id, m.from.n, m.at.Sub(w.start), v.since.Sub(w.start))
		}
		return
	}
	if member && must && s.texts[m.text] == 0 && m.missing[string(n.user)] == noDevice {
		r.Keyless++
		return
	}
	if member && must && s.texts[m.text] == 0 {
		r.Undecryptable++
		add("undecryptable", n, "%s of node %d, said at %v; joined since %v; missing %q", m.text, m.from.n, m.at.Sub(w.start), v.since.Sub(w.start), m.missing[string(n.user)])
	}
}

// roll lets all say a word in all their rooms, once all was healed for some time: what two sides of a room did before they heard of each
// other comes together by what follows both, which here nobody else would write.
func (w *world) roll(quiet time.Duration) {
	time.Sleep(quiet)
	for _, g := range w.rooms {
		for _, n := range w.joined(g) {
			w.say(g, n)
		}
	}
	w.play(time.Now().Add(time.Hour))
	w.queue = nil
}

// settle is the quiet time: until all is well, but not longer than the limit.
func (w *world) settle(limit time.Duration) (found []finding) {
	began := time.Now()
	for range 2 { // the second time on what came together by the first
		w.roll(max(24*time.Hour, 144*w.size.frame))
	}
	for step := 6 * time.Hour; ; {
		time.Sleep(step)
		for range 3 { // what a look tells may make the client do something: fetch keys, make new ones
			for _, n := range w.nodes {
				n.client.look()
			}
			time.Sleep(time.Minute)
		}
		r := w.r
		w.last = time.Since(began) >= limit
		found = w.judge(&r)
		w.r = r
		w.r.Quiet = time.Since(began).Hours()
		w.note("after %.0f h of silence: %d findings; %d lost, %d undecryptable, %d diverged", w.r.Quiet, len(found), r.Lost, r.Undecryptable, r.Diverged)
		if len(found) == 0 || w.last {
			return found
		}
	}
}
