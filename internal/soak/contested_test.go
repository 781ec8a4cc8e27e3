// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"maps"
	"slices"
	"time"
)

// What is soft-failed at some nodes, as the specification has it, and shown at others.

// invited notes who lets whom in. An invite by one who has not heard that the other was in the room and left comes beside that: where the leave came
// first the join is soft-failed, and elsewhere not.
func (g *gathering) invited(by, who *node) {
	if v := who.client.views[g.id]; g.letIn[who] == nil || v == nil || !v.joined && !v.invited {
		maps.DeleteFunc(g.letIn[who], func(_ *node, contested bool) bool { return !contested })
		delete(g.risks, who)
	}
	if g.letIn[who] == nil {
		g.letIn[who], g.again[who] = map[*node]bool{}, map[*node]bool{}
	}
	if len(g.letIn[who]) > 0 {
		g.again[who][by] = true
	}
	id := g.left[who]
	g.letIn[who][by] = g.contested(by) || id != "" && by.client.views[g.id].shown[id] == 0
}

// leaves notes that somebody has left, while others may be inviting him anew.
func (g *gathering) leaves(n *node) {
	var state []struct {
		shownEvent
		ID string `json:"event_id"`
	}
	n.client.ask("GET", api+"/rooms/"+escape(g.id)+"/state", nil, &state)
	for _, e := range state {
		if e.Type == "m.room.member" && e.StateKey != nil && *e.StateKey == string(n.user) {
			g.left[n] = e.ID
		}
	}
	g.letIn[n], g.again[n] = g.again[n], map[*node]bool{}
	delete(g.risks, n)
}

// contested: what somebody writes now may be shown or not.
func (g *gathering) contested(n *node) bool {
	return n.client.views[g.id].removed || slices.Contains(slices.Collect(maps.Values(g.letIn[n])), true)
}

// removed: from now on until the removed one's client hears of it, what it writes may be shown or not (it is soft-failed where the
// removal came first), and so may be what it wrote before that the remover's node did not have. The same goes for those that it let in and the
// remover does not know of: shown are the members as he sees them.
func (w *world) removed(g *gathering, by, who *node, shown map[string]bool) {
	if v := who.client.views[g.id]; v != nil && v.joined {
		v.removed = true
	} // else it left, and the remover's node had not heard of it
	hit := g.letInBy(who, func(x *node) bool { return !shown[string(x.user)] })
	for x := range hit {
		for y := range g.letIn[x] {
			g.letIn[x][y] = g.letIn[x][y] || x != who && hit[y]
		}
	}
	for x := range g.letInBy(who, func(*node) bool { return true }) {
		if !hit[x] && g.risks[x] == nil {
			g.risks[x] = &risk{since: time.Now()}
		}
	}
	for _, m := range w.said {
		if m.room != g || m.id == "" || by.client.views[g.id].shown[m.id] > 0 {
			continue
		}
		if hit[m.from] {
			m.contested = true
		} else if r := g.risks[m.from]; r != nil {
			r.unheard = append(r.unheard, m)
		}
	}
}

// letInBy are who, and those of some that it let in, that these let in, and so on.
func (g *gathering) letInBy(who *node, of func(*node) bool) map[*node]bool {
	hit := map[*node]bool{who: true}
	for more := true; more; {
		more = false
		for x, inviters := range g.letIn {
			if hit[x] || !of(x) {
				continue
			}
			for y := range inviters {
				if hit[y] {
					hit[x], more = true, true
				}
			}
		}
	}
	return hit
}

// risk is that of somebody whom the remover does know of, but who was let in by who was removed: where that comes together with a branch on which he is not in the
// room, state resolution hears of the removal before the invite, and his join counts no more (Matrix specification, state resolution v2: kicks come first).
type risk struct {
	since   time.Time
	unheard []*message // what he had said, and the remover's node did not have
}

// outvoted: a client is shown that its user is not in the room any more, and nobody's leave, kick or ban that says so.
func (w *world) outvoted(g *gathering, n *node) {
	r := g.risks[n]
	if r == nil {
		return
	}
	for _, m := range w.said {
		m.contested = m.contested || m.room == g && m.from == n && m.id != "" && !m.at.Before(r.since)
	}
	for _, m := range r.unheard {
		m.contested = true
	}
	delete(g.risks, n)
}
