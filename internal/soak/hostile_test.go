// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// liar is a hostile node's rooms: what it made up goes out like anything else. It keeps its contacts and its place in rooms, and its
// user talks and is talked to; only what it shows of itself is not judged.
type liar struct {
	*room.Rooms
	mu   sync.Mutex
	lies map[matrix.EventID][]byte
}

// RawFor is replicate.Rooms'.
func (l *liar) RawFor(server matrix.ServerName, room matrix.RoomID, id matrix.EventID) ([]byte, error) {
	l.mu.Lock()
	raw, ok := l.lies[id]
	l.mu.Unlock()
	if ok {
		return raw, nil
	}
	return l.Rooms.RawFor(server, room, id)
}

// lie lets a hostile node queue something for one of its contacts.
func (w *world) lie(n *node) {
	g, ok := pick(w.fate, w.joinedRooms(n))
	if !ok || !n.up() || n.api == nil {
		return
	}
	to := w.nodes[n.contacts[w.fate.IntN(len(n.contacts))]]
	id := matrix.EventID("$" + b64(digest("lie", w.size.seed, w.fate.Uint64())))
	raw := w.made(n, g)
	if raw == nil {
		return
	}
	kind, data := byte(store.ItemEvent), []byte(g.id+"\x00"+string(id))
	switch w.fate.IntN(10) {
	case 0: // another's words, changed
		raw = changed(raw, func(e object) { e["content"] = object{"body": "never said", "msgtype": "m.text"} })
	case 1: // in another's name
		raw = changed(raw, func(e object) { e["sender"] = to.user })
	case 2:
		raw = make([]byte, 1+w.fate.IntN(2000))
		for i := range raw {
			raw[i] = byte(w.fate.Uint32())
		}
	case 3: // parents that are nobody's
		var parents []matrix.EventID
		for range 20 {
			parents = append(parents, matrix.EventID("$"+b64(digest("parent", w.fate.Uint64()))))
		}
		raw = w.build(n, g, raw, func(p *matrix.Proto) { p.PrevEvents = parents })
	case 4: // as large as may be
		raw = w.build(n, g, raw, func(p *matrix.Proto) {
			p.Content, _ = json.Marshal(object{"msgtype": "m.text", "body": words(w.fate, 60_000)})
		})
	case 5: // two of the same place, one for each of two
		for _, k := range n.contacts[:min(2, len(n.contacts))] {
			twin := w.build(n, g, raw, func(p *matrix.Proto) {
				p.Content, _ = json.Marshal(object{"msgtype": "m.text", "body": fmt.Sprint("to node ", k, " alone")})
			})
			w.queueLie(n, w.nodes[k], kind, []byte(g.id+"\x00"+string(id)+fmt.Sprint(k)), id+matrix.EventID(fmt.Sprint(k)), twin)
		}
		return
	case 6: // powers that it does not have
		raw = w.build(n, g, raw, func(p *matrix.Proto) {
			p.Type, p.StateKey = "m.room.power_levels", new(string)
			p.Content, _ = json.Marshal(object{"users": object{string(n.user): 1000}})
		})
	case 7: // no record of any kind
		kind, data = store.ItemRecord, make([]byte, 1+w.fate.IntN(3000))
		for i := range data {
			data[i] = byte(w.fate.Uint32())
		}
	case 8: // the same three times
		for range 3 {
			w.queueLie(n, to, kind, data, id, raw)
		}
	case 9: // a ban of everybody, mostly by who may not
		if shown, ok := n.client.members(g.id); ok && w.mayBan(n, g) {
			w.removed(g, n, to, shown)
		}
		raw = w.build(n, g, raw, func(p *matrix.Proto) {
			user := string(to.user)
			p.Type, p.StateKey = "m.room.member", &user
			p.Content, _ = json.Marshal(object{"membership": "ban"})
			p.Time = time.Now()
		})
	}
	if raw != nil {
		w.queueLie(n, to, kind, data, id, raw)
	}
}

// mayBan tells whether a node's user has the power to.
func (w *world) mayBan(n *node, g *gathering) bool {
	var pl struct{ Users map[string]int }
	status, _ := n.client.ask("GET", api+"/rooms/"+escape(g.id)+"/state/m.room.power_levels", nil, &pl)
	return g.creator == n || status == http.StatusOK && pl.Users[string(n.user)] >= 50
}

func (w *world) queueLie(n, to *node, kind byte, data []byte, id matrix.EventID, raw []byte) {
	n.liar.mu.Lock()
	n.liar.lies[id] = raw
	n.liar.mu.Unlock()
	w.r.Hostile++
	if err := n.kv.Update(func(txn store.Txn) error { return store.Enqueue(txn, string(to.user.Homeserver()), kind, data) }); err != nil && n.kv == n.disk {
		w.t.Error(err)
	}
}

// made is a head of the room as the node has it.
func (w *world) made(n *node, g *gathering) []byte {
	heads, err := n.liar.Heads(matrix.RoomID(g.id))
	if err != nil || len(heads) == 0 {
		return nil
	}
	raw, err := n.liar.Raw(matrix.RoomID(g.id), heads[0])
	if err != nil {
		return nil
	}
	return raw
}

func changed(raw []byte, by func(object)) []byte {
	var e object
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&e) != nil {
		return nil
	}
	by(e)
	raw, err := json.Marshal(e)
	if err != nil {
		return nil
	}
	return raw
}

// build signs an event after the given one, with the authority that the node's user has. What the library refuses to build is not sent.
func (w *world) build(n *node, g *gathering, after []byte, by func(*matrix.Proto)) []byte {
	head, err := matrix.Parse(matrix.RoomVersion(g.version), after)
	if err != nil {
		return nil
	}
	p := matrix.Proto{Room: matrix.RoomID(g.id), Sender: n.user, Type: "m.room.message", Content: json.RawMessage(`{"body":"x","msgtype":"m.text"}`),
		PrevEvents: []matrix.EventID{head.ID()}, AuthEvents: head.PDU().AuthEvents, Depth: head.Depth() + 1, Time: time.Now()}
	var state []struct {
		shownEvent
		ID matrix.EventID `json:"event_id"`
	}
	if status, _ := n.client.ask("GET", api+"/rooms/"+escape(g.id)+"/state", nil, &state); status == 200 {
		p.AuthEvents = nil
		for _, e := range state {
			if e.Type == "m.room.create" && g.version != "12" || e.Type == "m.room.power_levels" || e.Type == "m.room.member" && *e.StateKey == string(n.user) {
				p.AuthEvents = append(p.AuthEvents, e.ID)
			}
		}
	}
	by(&p)
	ev, err := matrix.Build(matrix.RoomVersion(g.version), p, matrix.Signer{Server: n.cert.Server, KeyID: n.cert.KeyID, Key: n.signing})
	if err != nil {
		return nil
	}
	return ev.Raw()
}

// joinedRooms are those that the node's client is in.
func (w *world) joinedRooms(n *node) (out []*gathering) {
	for _, g := range w.rooms {
		if v := n.client.views[g.id]; v != nil && v.joined {
			out = append(out, g)
		}
	}
	return out
}
