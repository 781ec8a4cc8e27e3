// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"tarn/replicate"
)

// gathering is a room: what was asked of the API about it, and answered.
type gathering struct {
	n          int
	rng        *rand.Rand // what becomes of a room does not change another's chance
	id         string
	visibility string
	encrypted  bool
	version    string
	creator    *node
	stays      map[*node]bool // those of the beginning, by whom the others reach each other: nobody removes them
	events     int            // that clients were told are made

	letIn map[*node]map[*node]bool // who invited whom, since that one was not in the room; true: while he was being removed himself, or not knowing that the other had left
	again map[*node]map[*node]bool // who invited whom when another invite was there or under way
	risks map[*node]*risk          // who may be out by state resolution, for who let him in was removed
	left  map[*node]string         // the event by which somebody left the last time
}

func (w *world) gathering(id string) *gathering {
	for _, g := range w.rooms {
		if g.id == id {
			return g
		}
	}
	return nil
}

// message is what somebody wrote. It counts from the moment at which the node's answer was 200.
type message struct {
	n         int
	room      *gathering
	from      *node
	text      string // a word that is nobody else's
	id        string // "": not acknowledged
	at        time.Time
	members   map[string]bool   // who was joined, as its sender was shown
	missing   map[string]string // of these, for whom there was nothing to encrypt to
	contested bool
	txn       string
	content   object
	heard     map[int]time.Time
}

// what happens next: a heap by time, then by order of planning.
type planned struct {
	at    time.Time
	order int
	do    func()
}

type queue []planned

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].order < q[j].order
	}
	return q[i].at.Before(q[j].at)
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(planned)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.queue, planned{time.Now().Add(d), w.order, do})
}

func exp(rng *rand.Rand, mean time.Duration) time.Duration {
	return time.Duration(rng.ExpFloat64() * float64(mean))
}

// again does something now and then.
func (w *world) again(rng *rand.Rand, mean time.Duration, do func()) {
	var next func()
	next = func() { do(); w.after(exp(rng, mean), next) }
	w.after(exp(rng, mean), next)
}

// play runs what is planned until then. Before each step all nodes and mailboxes have come to rest at that instant.
func (w *world) play(until time.Time) {
	for len(w.queue) > 0 && w.queue[0].at.Before(until) {
		p := heap.Pop(&w.queue).(planned)
		time.Sleep(time.Until(p.at))
		synctest.Wait()
		p.do()
	}
	time.Sleep(time.Until(until))
	synctest.Wait()
}

// account says, each day, how much waits where: whether the nodes keep up.
func (w *world) account() {
	waiting, unacked, most, off, left, lost := 0, 0, 0, 0, 0, 0.0
	var sum replicate.Counts
	for _, n := range w.nodes {
		if !n.up() || n.cut {
			off++
			continue
		}
		cs, _ := n.engine.Contacts()
		for _, c := range cs {
			waiting, unacked, most = waiting+c.Waiting, unacked+c.Unacked, max(most, c.Waiting)
		}
		for _, s := range n.engine.Stores() {
			if s.Left || s.Draining {
				left++
			}
			lost += s.Lost
		}
		k := n.engine.Counts()
		sum.Opened, sum.Rewrites, sum.Resealed, sum.Dropped, sum.Late = sum.Opened+k.Opened, sum.Rewrites+k.Rewrites, sum.Resealed+k.Resealed, sum.Dropped+k.Dropped, sum.Late+k.Late
	}
	w.note("%d nodes are off; at the others %d items wait, at most %d for one contact, in %d boxes; %d mailboxes are left; %.1f loops lost; since their starts %+v", off, waiting, most, unacked, left, lost, sum)
	w.after(24*time.Hour, w.account)
}

// story plans the days.
func (w *world) story() {
	w.after(24*time.Hour, w.account)
	for _, n := range w.nodes {
		w.after(exp(n.rng, w.lookEvery()), func() { w.looks(n) })
	}
	for i := range w.size.rooms {
		w.after(exp(w.rng, w.days()/20), func() { w.found(i) })
	}
	if w.size.faults {
		for _, n := range w.nodes {
			w.again(w.fate, min(60*time.Hour, w.days()/2), func() { w.trouble(n) })
		}
		for _, n := range w.nodes[:w.size.hostile] {
			w.again(w.fate, 3*time.Hour, func() { w.lie(n) })
		}
		w.again(w.fate, min(18*time.Hour, w.days()/4), w.outage)
	}
}

func (w *world) days() time.Duration { return time.Duration(w.size.days * float64(24*time.Hour)) }

func (w *world) lookEvery() time.Duration { return max(20*time.Minute, w.size.frame) }

func (w *world) looks(n *node) {
	if n.api != nil {
		n.client.look()
		w.answerInvites(n)
	}
	w.after(exp(n.rng, w.lookEvery()), func() { w.looks(n) })
}

func (w *world) answerInvites(n *node) {
	for _, g := range w.rooms {
		v := n.client.views[g.id]
		if v == nil || !v.invited || v.joined {
			continue
		}
		what := "/join"
		if n.rng.Float64() < 0.07 {
			what = "/leave"
		}
		status, text := n.client.ask("POST", api+"/rooms/"+escape(g.id)+what, object{}, nil)
		switch {
		case status == http.StatusOK:
			v.invited = false
			g.events++
			n.client.look()
		case status != 0 && status < 500:
			w.note("node %d: %s %s: %d %s", n.n, what, g.id, status, text)
			v.invited = false
		}
	}
}

// found makes a room; its creator invites some contacts. Members invite theirs later.
func (w *world) found(i int) {
	rng := rand.New(rand.NewPCG(w.size.seed, 0x9a7e<<32+uint64(i)))
	creator := w.nodes[rng.IntN(len(w.nodes))]
	g := &gathering{letIn: map[*node]map[*node]bool{}, again: map[*node]map[*node]bool{}, left: map[*node]string{}, risks: map[*node]*risk{}, n: i, rng: rng, creator: creator, encrypted: rng.Float64() < w.size.encrypted,
		visibility: []string{"shared", "joined", "invited"}[rng.IntN(3)], version: []string{"11", "12"}[rng.IntN(2)]}
	g.stays = map[*node]bool{creator: true}
	var users []string
	most := 1 + rng.IntN(4)
	for _, k := range rng.Perm(len(creator.contacts)) {
		if n := w.nodes[creator.contacts[k]]; len(users) < most && !(g.encrypted && slices.ContainsFunc(users, func(u string) bool { return !slices.Contains(w.userNode(u).contacts, n.n) })) {
			users = append(users, string(n.user))
			g.stays[n] = !w.size.clique
		}
	}
	initial := []object{{"type": "m.room.history_visibility", "state_key": "", "content": object{"history_visibility": g.visibility}}}
	if g.encrypted {
		initial = append(initial, object{"type": "m.room.encryption", "state_key": "", "content": object{"algorithm": megolm}})
	}
	var a struct {
		ID string `json:"room_id"`
	}
	status, text := creator.client.ask("POST", api+"/createRoom", object{"preset": "private_chat", "room_version": g.version, "invite": users, "initial_state": initial,
		"name": fmt.Sprint("room ", i)}, &a)
	if status != http.StatusOK {
		if status != 0 && status < 500 {
			w.t.Fatalf("createRoom: %d %s", status, text)
		}
		w.after(time.Hour, func() { w.found(i) }) // the node is not there now
		return
	}
	g.id = a.ID
	w.rooms = append(w.rooms, g)
	creator.client.look()
	w.again(g.rng, time.Duration(float64(24*time.Hour)/w.size.talk), func() { w.speak(g) })
	w.again(g.rng, min(10*time.Hour, w.days()/6), func() { w.churn(g) })
}

// fits tells whether a node may be invited. Its members must be able to reach each other whoever leaves: so it is a contact of one that
// stays. And encryption needs the keys of all others, which only contacts have.
func (w *world) fits(g *gathering, n *node) bool {
	reached := false
	for _, m := range w.nodes {
		v := m.client.views[g.id]
		in := v != nil && (v.joined || v.invited)
		contact := slices.Contains(m.contacts, n.n)
		reached = reached || contact && g.stays[m] && in
		if g.encrypted && !w.size.strangers && in && m != n && !contact {
			return false
		}
	}
	return reached
}

// joined are the nodes whose client believes that it is in the room, and which can be asked now.
func (w *world) joined(g *gathering) (out []*node) {
	for _, n := range w.nodes {
		if v := n.client.views[g.id]; v != nil && v.joined && n.api != nil {
			out = append(out, n)
		}
	}
	return out
}

func pick[T any](rng *rand.Rand, from []T) (x T, ok bool) {
	if len(from) == 0 {
		return x, false
	}
	return from[rng.IntN(len(from))], true
}

// speak lets somebody write a message.
func (w *world) speak(g *gathering) {
	if n, ok := pick(g.rng, w.joined(g)); ok {
		w.say(g, n)
	}
}

func (w *world) say(g *gathering, n *node) {
	m := &message{n: len(w.said), room: g, from: n, text: fmt.Sprintf("m%d.%d", g.n, len(w.said)), heard: map[int]time.Time{}, txn: n.client.nextTxn()}
	w.said = append(w.said, m)
	w.texts[m.text] = m
	w.send(m)
}

// send tries until there is an answer, as clients do.
func (w *world) send(m *message) {
	c := m.from.client
	later := func() { w.after(upTo(m.room.rng, time.Minute, 20*time.Minute), func() { w.send(m) }) }
	if m.from.api == nil || !c.look() {
		later()
		return
	}
	if v := c.views[m.room.id]; !v.joined {
		return // it was removed meanwhile: its app says so
	}
	joined, ok := c.members(m.room.id)
	if !ok {
		later()
		return
	}
	if m.content == nil {
		m.members = joined
		size := 10 + int(exp(m.room.rng, 120))
		switch x := m.room.rng.Float64(); {
		case x < 0.01:
			size = 30_000
		case x < 0.06:
			size = 5_000
		}
		body := m.text + " " + words(m.room.rng, size)
		if !m.room.encrypted {
			m.content = object{"msgtype": "m.text", "body": body}
		} else if m.content, m.missing, ok = c.olm.seal(m.room.id, joined, body); !ok {
			m.content = nil
			later()
			return
		}
	}
	kind := "m.room.message"
	if m.room.encrypted {
		kind = "m.room.encrypted"
	}
	var a struct {
		ID string `json:"event_id"`
	}
	status, text := c.ask("PUT", api+"/rooms/"+escape(m.room.id)+"/send/"+kind+"/"+m.txn, m.content, &a)
	switch {
	case status == http.StatusOK:
		m.id, m.at = a.ID, time.Now()
		m.contested = m.room.contested(m.from)
		m.room.events++
		m.heard[m.from.n] = m.at
	case status == 0 || status >= 500:
		later()
	case status == http.StatusForbidden:
	default:
		w.t.Errorf("node %d: send: %d %s", m.from.n, status, text)
	}
}

// words are as incompressible as what people write.
func words(rng *rand.Rand, n int) string {
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "%x ", rng.Uint64()>>(rng.IntN(6)*8))
	}
	return b.String()[:n]
}

// heard notes that a client could read a message.
func (w *world) heard(c *client, m *message) {
	if _, ok := m.heard[c.n.n]; !ok {
		m.heard[c.n.n] = time.Now()
	}
}

func (w *world) userNode(user string) *node {
	for _, n := range w.nodes {
		if string(n.user) == user {
			return n
		}
	}
	return nil
}

// churn lets a member do something to the room.
func (w *world) churn(g *gathering) {
	members := w.joined(g)
	n, ok := pick(g.rng, members)
	if !ok {
		return
	}
	x := g.rng.IntN(20)
	if x >= 10 && g.rng.IntN(2) == 0 && slices.Contains(members, g.creator) {
		n = g.creator // who may do what the others mostly may not
	}
	c := n.client
	if !c.look() || !c.views[g.id].joined {
		return
	}
	shown, ok := c.members(g.id)
	if !ok {
		return
	}
	users := slices.Sorted(maps.Keys(shown))
	path := api + "/rooms/" + escape(g.id)
	do := func(n *node, method, path string, body object) bool {
		status, text := n.client.ask(method, path, body, nil)
		if status == http.StatusOK {
			g.events++
			w.note("room %d, node %d: %s %v", g.n, n.n, path[strings.LastIndexByte(path, '/'):], body)
		} else if status != 0 && status < 500 && status != http.StatusForbidden {
			w.note("node %d: %s %s: %d %s", n.n, method, path, status, text)
		}
		return status == http.StatusOK
	}
	topic := func(n *node) {
		do(n, "PUT", path+"/state/m.room.topic", object{"topic": fmt.Sprint("topic ", g.rng.Uint32())})
	}
	switch {
	case x < 8: // whoever is not in it, of the contacts
		if len(users) >= w.size.largest {
			return
		}
		var others []string
		for _, k := range n.contacts {
			if u := string(w.nodes[k].user); !shown[u] && w.fits(g, w.nodes[k]) {
				others = append(others, u)
			}
		}
		if u, ok := pick(g.rng, others); ok && do(n, "POST", path+"/invite", object{"user_id": u}) {
			g.invited(n, w.userNode(u))
		}
	case x < 10:
		if len(users) > 2 && !g.stays[n] {
			c.look()
			if do(n, "POST", path+"/leave", object{}) {
				c.look()
				g.leaves(n)
			}
		}
	case x < 14: // kick, ban
		u, _ := pick(g.rng, users)
		if u == string(n.user) || len(users) < 3 || g.stays[w.userNode(u)] {
			return
		}
		what := "/kick"
		if x == 13 {
			what = "/ban"
		}
		if do(n, "POST", path+what, object{"user_id": u}) {
			w.removed(g, n, w.userNode(u), shown)
			if x == 13 {
				w.after(upTo(g.rng, time.Hour, 12*time.Hour), func() { do(n, "POST", path+"/unban", object{"user_id": u}) })
			}
		}
	case x < 17: // topics, of two at once
		topic(n)
		if other, ok := pick(g.rng, members); ok && other != n {
			topic(other)
		}
	default: // powers: somebody gets or loses some, while another changes the topic
		var pl object
		if status, _ := c.ask("GET", path+"/state/m.room.power_levels", nil, &pl); status != http.StatusOK {
			return
		}
		levels, _ := pl["users"].(map[string]any)
		if levels == nil {
			levels = object{}
		}
		u, _ := pick(g.rng, users)
		if g.version == "12" && u == string(g.creator.user) {
			return // has all, and may not be named
		}
		levels[u] = []int{0, 50, 100}[g.rng.IntN(3)]
		if u == string(g.creator.user) {
			levels[u] = 100
		}
		pl["users"] = levels
		do(n, "PUT", path+"/state/m.room.power_levels", pl)
		if other, ok := pick(g.rng, members); ok {
			topic(other)
		}
	}
}

// note is for what is worth a look and no failure.
func (w *world) note(format string, args ...any) {
	if w.size.verbose {
		w.t.Logf("%s  %s", time.Since(w.start).Truncate(time.Second), fmt.Sprintf(format, args...))
	}
}
