// SPDX-License-Identifier: Apache-2.0

package room

import (
	"cmp"
	"crypto/sha256"
	"maps"
	"math"
	"math/rand/v2"
	"slices"

	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// A room's servers are not all contacts of each other, and an event reaches only the contacts of who has it. So who learns an event
// passes it on to those of its own contacts that probably lack it: in the transaction that stores the event, so that what was
// taken is passed on, whatever is killed when. Events are signed: who passes one on can withhold it or redact it, and no more.
//
// Who lacks it? Not its author, not who delivered it, and not a contact that said (Peer.Sources) that it gets the author's events
// from the author. So in a clique each event is sent n-1 times, as if nobody passed anything on; in a star the middle passes
// everything on at once. In between each pair of contacts carries an event at most twice, once each way. In a room of many servers
// the author would have to seal a box for each of them, one after the other; there an event goes to a few by lot, and on from them.
//
// What this misses (a contact that said what is no longer so, a lot that left somebody out, two branches that a liar shows to two servers)
// heals by missing parents and by heads (package replicate).

// Bounds of passing on.
const (
	maxDirect = 8 // other servers in a room: up to so many, an event goes to each that lacks it
	fanOut    = 3 // beyond, how many copies of an event a server is to get, on average
)

// Peer is what is known of a contact of this node.
type Peer struct {
	// Sources are the servers, of those in rooms that it shares with this node, whose events it gets from themselves: its contacts.
	Sources map[matrix.ServerName]bool
	Said    bool // it said so at all
}

// SetPeers says who the contacts of this node are, that is which servers it can send to. Before the first call all servers are.
// peers is not changed any more.
func (r *Rooms) SetPeers(peers map[matrix.ServerName]Peer) { r.peers.Store(&peers) }

// contacts are those of some servers that this node can send to.
func (r *Rooms) contacts(of []matrix.ServerName) []matrix.ServerName {
	peers := r.peers.Load()
	if peers == nil {
		return of
	}
	var out []matrix.ServerName
	for _, s := range of {
		if _, ok := (*peers)[s]; ok {
			out = append(out, s)
		}
	}
	return out
}

// recipients are the deliveries of an event that is about to be put: a local user's, or one that from delivered. before is the state
// before it.
func (p *plan) recipients(ev *matrix.Event, from matrix.ServerName, before dag.State) ([]delivery, error) {
	var to []matrix.ServerName
	peers := p.r.peers.Load()
	author := ev.Server()
	switch ours := author == p.r.server(); {
	case peers == nil && !ours:
		return nil, nil // they are the author's contacts too
	case peers == nil:
		to = remotes(p.census, p.r.server())
	default:
		var err error
		if to, err = p.lacking(*peers, author, from, before, ev.ID()); err != nil {
			return nil, err
		}
	}
	to, err := p.admitted(p.current, to)
	if err != nil {
		return nil, err
	}
	data := itemData(p.row.id, ev.ID())
	out := make([]delivery, 0, len(to)+1)
	for _, s := range to {
		out = append(out, delivery{s, store.ItemEvent, data})
	}
	if ev.Type() != matrix.TypeMember || ev.StateKey() == nil {
		return out, nil
	}
	// A member event goes to the member's server too, which may not be in the room (yet, or any more).
	target := matrix.UserID(*ev.StateKey())
	server := serverOf(target)
	if server == p.r.server() || server == author || server == from || p.census.servers[server] > 0 {
		return out, nil
	}
	if denied, err := p.deniedIn(p.current, server); denied || err != nil {
		return out, err
	}
	if author != p.r.server() {
		// Its author sends it to a contact. Others may be the only ones who can tell that a standing came to its end; who is
		// invited hears of it from the inviter alone.
		peer, contact := (*peers)[server]
		was, err := p.memberNow(target)
		if err != nil || !contact || peer.Sources[author] || !ends(was, ev.Membership()) {
			return out, err
		}
		return append(out, delivery{server, store.ItemInvite, data}), nil
	}
	// The server is not in the room: an invite carries the room (DESIGN §6), the end of a standing what it leans on (ended.go).
	was, err := p.memberNow(target)
	if err != nil || was == "" && ev.Membership() != matrix.MemberInvite {
		return out, err
	}
	return append(out, delivery{server, store.ItemInvite, data}), nil
}

// lacking are the contacts in the room that get an event from this node, sorted.
func (p *plan) lacking(peers map[matrix.ServerName]Peer, author, from matrix.ServerName, before dag.State, id matrix.EventID) ([]matrix.ServerName, error) {
	var all []matrix.ServerName
	for s := range p.census.servers {
		if _, ok := peers[s]; ok && s != author && s != from && s != p.r.server() {
			all = append(all, s)
		}
	}
	slices.Sort(all)
	if p.many() {
		return p.byLot(peers, all, id), nil
	}
	if author == p.r.server() {
		return all, nil
	}
	var err error
	same := before.Same(p.current)
	all = slices.DeleteFunc(all, func(s matrix.ServerName) bool {
		if err != nil || !peers[s].Sources[author] {
			return false
		}
		// The author sends it to those that it sees in the room. Who came in beside the event it does not.
		in := same
		if !in {
			in, err = p.serverWas(before, s, matrix.MemberJoin)
		}
		return in
	})
	return all, err
}

// many tells whether events of the room go to a few servers by lot.
func (p *plan) many() bool {
	n := len(p.census.servers)
	if p.census.servers[p.r.server()] > 0 {
		n--
	}
	return n > maxDirect
}

// byLot chooses those that get an event in a room of many servers. One that can hear of it in k ways gets it with the
// probability fanOut/k: so each server gets about fanOut copies, whatever the graph of contacts looks like, and who hears of the room from
// us alone gets every one. The lot depends on the event and a secret of ours.
func (p *plan) byLot(peers map[matrix.ServerName]Peer, all []matrix.ServerName, id matrix.EventID) []matrix.ServerName {
	var out []matrix.ServerName
	type lot struct {
		server matrix.ServerName
		key    float64
	}
	var lots []lot
	sum := 0.0
	rng := rand.New(rand.NewChaCha8(sha256.Sum256(append(p.r.seed[:len(p.r.seed):len(p.r.seed)], id...))))
	ways := p.ways(peers)
	for _, s := range all {
		k := ways[s]
		if k <= fanOut {
			out = append(out, s)
			continue
		}
		// Weighted, without putting back (Efraimidis and Spirakis 2006): the greatest of u^(1/weight).
		w := fanOut / float64(k)
		sum += w
		lots = append(lots, lot{s, math.Log(1-rng.Float64()) / w})
	}
	slices.SortFunc(lots, func(a, b lot) int { return cmp.Compare(b.key, a.key) })
	n := max(int(math.Ceil(sum)), fanOut-len(out))
	for _, l := range lots[:min(n, len(lots))] {
		out = append(out, l.server)
	}
	slices.Sort(out)
	return out
}

// ways counts, for each contact in the room, the servers of the room that it hears from, this one among them. It is counted anew when
// servers come or go, or contacts say something else.
func (p *plan) ways(peers map[matrix.ServerName]Peer) map[matrix.ServerName]int {
	l := p.l
	if at := p.r.peers.Load(); l.ways == nil || l.waysPeers != at || l.waysShape != p.census.shape {
		l.ways, l.waysPeers, l.waysShape = map[matrix.ServerName]int{}, at, p.census.shape
	}
	for s := range p.census.servers {
		peer, ok := peers[s]
		if _, done := l.ways[s]; !ok || done {
			continue
		}
		k := 1
		for o := range peer.Sources {
			if o != p.r.server() && p.census.servers[o] > 0 {
				k++
			}
		}
		l.ways[s] = k
	}
	return l.ways
}

// Fellows lists the servers, but this one and the given one, that have joined or invited members in the rooms that those two
// share, sorted.
func (r *Rooms) Fellows(server matrix.ServerName) ([]matrix.ServerName, error) {
	found := map[matrix.ServerName]bool{}
	err := r.eachOf(server, func(q *reading) error {
		t, err := q.tallyOf()
		if err != nil {
			return err
		}
		for _, s := range t.remotes {
			found[s] = true
		}
		for _, s := range t.guests {
			found[s] = true
		}
		return nil
	})
	delete(found, server)
	return slices.Sorted(maps.Keys(found)), err
}

// again passes on an event of which this node had, and passed on, the redacted form alone.
func (p *plan) again(e *held, from matrix.ServerName) error {
	if e.outlier || e.status == dag.Rejected {
		return nil
	}
	before, err := p.state(e.before)
	if err != nil {
		return err
	}
	to, err := p.recipients(e.ev, from, before)
	p.outbox = append(p.outbox, to...)
	return err
}
