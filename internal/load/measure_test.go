// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The world that is measured, before it grows tenfold.
const (
	baseRooms    = 200
	baseEvents   = 10_000
	baseMembers  = 1000 // of the crowded room; it does not grow
	roomMessages = 20
	growth       = 10
	writers      = 32 // clients that write at once
)

// world is a node with people.
type world struct {
	t     testing.TB
	n     *node
	r     *report
	all   []*client // baseMembers of them
	rooms []string  // of all[0] and all[1]
	own   []string  // one of each of the first writers
	long  string    // of the first eight
	sent  map[string]bool
	crowd string
	txn   atomic.Int64
}

// measure makes one run: the world, its figures, and again when it has grown.
func measure(t testing.TB, r *report, grow bool) {
	r.grown = false
	bare(t, r)
	w := &world{t: t, n: newNode(t), r: r, sent: map[string]bool{}}
	w.n.start()
	w.step("at the start")
	cpu, _ := w.cost(func() { time.Sleep(window) })
	r.put("CPU of ten idle seconds at the start", ms(cpu))
	w.step("people")
	w.people(baseMembers)
	w.step("rooms")
	w.makeRooms(baseRooms)
	w.long = w.all[0].meet(w.all[1:8]...)
	w.gather()
	w.look(baseEvents)
	if grow {
		r.grown = true
		w.step("growing")
		w.makeRooms(growth * baseRooms)
		w.talk(w.long, w.all[:8], (growth-1)*baseEvents-len(w.sent)) // what look adds is the rest
		w.look(baseEvents)
	}
	w.n.stop()
}

// look takes every figure of the world as it is. The long room gets so many events more meanwhile.
func (w *world) look(events int) {
	w.n.stop()
	before := w.n.disk()
	w.n.start()
	w.eight(events)
	w.n.stop()
	w.r.put("disk an event", float64(w.n.disk()-before)/float64(events))
	for _, f := range []struct {
		name string
		do   func()
	}{
		{"starts", w.starts}, {"first syncs", w.firstSync}, {"1 client", w.one}, {"32 clients", w.many}, {"wake-ups", w.wake}, {"messages", w.messages},
		{"new rooms", w.creations}, {"joins", w.joins}, {"media", w.media}, {"a crowd", w.crowded}, {"idle", w.idle}, {"waiting", w.polls},
	} {
		w.step(f.name)
		f.do()
	}
}

// step says on stderr how far it is.
func (w *world) step(what string) {
	fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), what)
}

// together runs f for each client at once.
func together(clients []*client, f func(i int, c *client) error) error {
	errs := make(chan error, len(clients))
	for i, c := range clients {
		go func() { errs <- f(i, c) }()
	}
	var first error
	for range clients {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) people(n int) {
	w.all = make([]*client, n)
	const at = 4
	w.must(together(make([]*client, at), func(k int, _ *client) (err error) {
		for i := k; i < len(w.all) && err == nil; i += at {
			w.all[i], err = w.n.tryRegister(fmt.Sprintf("user%04d", i))
		}
		return err
	}))
	for i, c := range w.all[:writers] {
		w.own = append(w.own, c.meet(w.all[(i+1)%writers]))
	}
}

// makeRooms goes on until there are n, each with some messages.
func (w *world) makeRooms(n int) {
	const at = 8
	var mu sync.Mutex
	more := n - len(w.rooms)
	w.must(together(make([]*client, at), func(k int, _ *client) error {
		for i := k; i < more; i += at {
			room := w.all[0].create(map[string]any{"preset": "public_chat", "name": fmt.Sprint("Room ", i)})
			if _, err := w.all[1].do(context.Background(), "POST", "/join/"+room, "{}"); err != nil {
				return err
			}
			for j := range roomMessages {
				if _, err := w.all[j%2].send(context.Background(), room, fmt.Sprint("fill", j), text("")); err != nil {
					return err
				}
			}
			mu.Lock()
			w.rooms = append(w.rooms, room)
			mu.Unlock()
		}
		return nil
	}))
}

// say sends one message and gives how long its answer took.
func (w *world) say(c *client, room string) (event string, took time.Duration, err error) {
	begun := time.Now()
	event, err = c.send(context.Background(), room, fmt.Sprint("m", w.txn.Add(1)), text(""))
	return event, time.Since(begun), err
}

// talk lets people send n messages into one room together, and returns what each took.
func (w *world) talk(room string, people []*client, n int) []time.Duration {
	var left atomic.Int64
	left.Store(int64(n))
	all := make([][]time.Duration, len(people))
	ids := make([][]string, len(people))
	w.must(together(people, func(i int, c *client) error {
		for left.Add(-1) >= 0 {
			id, took, err := w.say(c, room)
			if err != nil {
				return err
			}
			all[i], ids[i] = append(all[i], took), append(ids[i], id)
		}
		return nil
	}))
	if room == w.long {
		for _, id := range slices.Concat(ids...) {
			w.sent[id] = true
		}
	}
	return slices.Concat(all...)
}

// cost runs f and gives the node's processor time and the wall's.
func (w *world) cost(f func()) (cpu, wall time.Duration) {
	before, begun := w.n.cpu(), time.Now()
	f()
	return w.n.cpu() - before, time.Since(begun)
}

func (w *world) eight(n int) {
	cpu, wall := w.cost(func() { w.talk(w.long, w.all[:8], n) })
	w.r.put("send, 8 clients in the long room: rate", float64(n)/wall.Seconds())
	w.r.put("send, 8 clients in the long room: CPU", ms(cpu)/float64(n))
}

func (w *world) one() {
	const n = 1000
	var took []time.Duration
	cpu, wall := w.cost(func() { took = w.talk(w.own[0], w.all[:1], n) })
	w.r.put("send, 1 client: p50", ms(quantile(took, 0.5)))
	w.r.put("send, 1 client: p99", ms(quantile(took, 0.99)))
	w.r.put("send, 1 client: rate", n/wall.Seconds())
	w.r.put("send, 1 client: CPU", ms(cpu)/n)
}

// many is 32 clients, each in a room of their own (with another).
func (w *world) many() {
	const each = 150
	took := make([][]time.Duration, writers)
	cpu, wall := w.cost(func() {
		w.must(together(w.all[:writers], func(i int, c *client) error {
			for range each {
				_, d, err := w.say(c, w.own[i])
				if err != nil {
					return err
				}
				took[i] = append(took[i], d)
			}
			return nil
		}))
	})
	all := slices.Concat(took...)
	w.r.put("send, 32 clients: p50", ms(quantile(all, 0.5)))
	w.r.put("send, 32 clients: p99", ms(quantile(all, 0.99)))
	w.r.put("send, 32 clients: rate", float64(len(all))/wall.Seconds())
	w.r.put("send, 32 clients: CPU", ms(cpu)/float64(len(all)))
}

// poll waits in a /sync.
func (c *client) poll(ctx context.Context, since string, timeout time.Duration) (s synced, err error) {
	raw, err := c.do(ctx, "GET", fmt.Sprintf("/sync?set_presence=offline&timeout=%d&since=%s", timeout.Milliseconds(), since), nil)
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	return s, err
}

// now is a token of what there is now, without reading it all.
func (c *client) now() (string, error) {
	raw, err := c.do(context.Background(), "GET", `/sync?set_presence=offline&filter={"room":{"rooms":[]}}`, nil)
	var s synced
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	return s.Next, err
}

// settled waits until the node has had nothing to do for two seconds: polls that were just sent are then parked.
func (w *world) settled() {
	before := w.n.cpu()
	for calm := 0; calm < 10; calm++ {
		time.Sleep(200 * time.Millisecond) // there is nothing to be told by: the clock of /proc is looked at
		now := w.n.cpu()
		if now-before > 10*time.Millisecond {
			calm = -1
		}
		before = now
	}
}

func (w *world) wake() {
	alice, bob := w.all[0], w.all[1]
	since, err := bob.now()
	w.must(err)
	var took []time.Duration
	for i := range 300 {
		woke := make(chan time.Time, 1)
		go func() {
			s, err := bob.poll(context.Background(), since, time.Minute)
			if err != nil || len(s.Rooms.Join) != 1 {
				w.t.Errorf("a /sync of %d rooms, %v", len(s.Rooms.Join), err)
			}
			since = s.Next
			woke <- time.Now()
		}()
		time.Sleep(5 * time.Millisecond) // for the poll to be parked: it is not seen from outside; a late one is measured all the same
		begun := time.Now()
		_, _, err := w.say(alice, w.rooms[i%len(w.rooms)])
		w.must(err)
		took = append(took, (<-woke).Sub(begun))
	}
	w.r.put("wake-up of a /sync: p50", ms(quantile(took, 0.5)))
	w.r.put("wake-up of a /sync: p99", ms(quantile(took, 0.99)))
}

func (w *world) starts() {
	var took []float64
	for range 3 {
		took = append(took, ms(w.n.start()))
		w.r.put("memory at the start", float64(w.n.status("VmRSS"))/(1<<20))
		w.n.stop()
	}
	w.r.put("start to the first answer", median(took))
	w.n.start()
}

// firstSync follows a start.
func (w *world) firstSync() {
	var took []time.Duration
	all := func() {
		begun := time.Now()
		raw, err := w.all[0].do(context.Background(), "GET", "/sync", nil)
		w.must(err)
		took = append(took, time.Since(begun))
		var s synced
		w.must(json.Unmarshal(raw, &s))
		if len(s.Rooms.Join) < len(w.rooms) {
			w.t.Fatalf("%d rooms in a first /sync", len(s.Rooms.Join))
		}
	}
	all()
	w.r.put("first /sync, all rooms, after a restart", ms(took[0]))
	took = nil
	const n = 10
	cpu, _ := w.cost(func() {
		for range n {
			all()
		}
	})
	w.r.put("first /sync, all rooms", ms(quantile(took, 0.5)))
	w.r.put("first /sync, all rooms: CPU", ms(cpu)/n)
	took = nil
	for range 5 {
		begun := time.Now()
		_, err := w.all[0].do(context.Background(), "POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0", map[string]any{
			"lists": map[string]any{"all": map[string]any{"ranges": []any{[]int{0, 19}}, "timeline_limit": 1, "required_state": []any{[]string{"m.room.name", ""}, []string{"m.room.member", "$LAZY"}}}}})
		w.must(err)
		took = append(took, time.Since(begun))
	}
	w.r.put("first sliding sync, 20 rooms", ms(quantile(took, 0.5)))
	since, err := w.all[0].now()
	w.must(err)
	const polls = 200
	cpu, _ = w.cost(func() {
		for range polls {
			_, err := w.all[0].poll(context.Background(), since, 0)
			w.must(err)
		}
	})
	w.r.put("/sync with nothing new: CPU", ms(cpu)/polls)
}

// messages walks through the long room: every acknowledged event is there, once.
func (w *world) messages() {
	var ids []string
	cpu, wall := w.cost(func() {
		var err error
		ids, err = w.all[1].pages(w.long, "b", "", 100)
		w.must(err)
	})
	w.r.put("/messages through the long room", float64(len(ids))/wall.Seconds())
	w.r.put("/messages through the long room: per core", float64(len(ids))/cpu.Seconds())
	got := map[string]int{}
	for _, id := range ids {
		got[id]++
	}
	for id := range w.sent {
		if got[id] != 1 {
			w.t.Fatalf("/messages gave an acknowledged event %d times", got[id])
		}
	}
}

// gather makes the crowded room.
func (w *world) gather() {
	w.crowd = w.all[0].meet()
	for _, c := range w.all[1:] {
		c.ask("POST", "/join/"+w.crowd, "{}", nil)
	}
}

func (w *world) creations() {
	const n = 50
	cpu, _ := w.cost(func() {
		for range n {
			w.all[2].create(map[string]any{"preset": "private_chat", "name": "A room"})
		}
	})
	w.r.put("creating a room: CPU", ms(cpu)/n)
}

func (w *world) joins() {
	again := w.all[100:200]
	for _, c := range again {
		c.ask("POST", "/rooms/"+w.crowd+"/leave", "{}", nil)
	}
	var took []time.Duration
	cpu, _ := w.cost(func() {
		for _, c := range again {
			begun := time.Now()
			c.ask("POST", "/join/"+w.crowd, "{}", nil)
			took = append(took, time.Since(begun))
		}
	})
	w.r.put("joining a room of 1,000: p50", ms(quantile(took, 0.5)))
	w.r.put("joining a room of 1,000: CPU", ms(cpu)/float64(len(again)))
	var s []time.Duration
	for range 5 {
		begun := time.Now()
		w.all[len(w.all)-1].ask("GET", `/sync?filter={"room":{"state":{"lazy_load_members":true}}}`, nil, nil)
		s = append(s, time.Since(begun))
	}
	w.r.put("first /sync, a room of 1,000 with lazy members", ms(quantile(s, 0.5)))
}

func (w *world) media() {
	const size, n = 8 << 20, 5
	up, down := time.Duration(0), time.Duration(0)
	for range n {
		content := make([]byte, size)
		rand.Read(content)
		id, took := w.upload(content)
		up += took
		begun := time.Now()
		raw, err := w.all[1].do(context.Background(), "GET", "/_matrix/client/v1/media/download/"+id, nil)
		w.must(err)
		down += time.Since(begun)
		if string(raw) != string(content) {
			w.t.Fatal("another file came back")
		}
	}
	w.r.put("media, 8 MiB up", n*size/1e6/up.Seconds())
	w.r.put("media, 8 MiB down", n*size/1e6/down.Seconds())
	var took []time.Duration
	for range 50 {
		content := make([]byte, 32<<10)
		rand.Read(content)
		_, d := w.upload(content)
		took = append(took, d)
	}
	w.r.put("media, 32 KiB up: p50", ms(quantile(took, 0.5)))
}

func (w *world) upload(content []byte) (id string, took time.Duration) {
	begun := time.Now()
	raw, err := w.all[0].do(context.Background(), "POST", "/_matrix/media/v3/upload", content)
	w.must(err)
	took = time.Since(begun)
	var a struct {
		URI string `json:"content_uri"`
	}
	w.must(json.Unmarshal(raw, &a))
	return strings.TrimPrefix(a.URI, "mxc://"), took
}

func (w *world) crowded() {
	const n = 300
	cpu, _ := w.cost(func() { w.talk(w.crowd, w.all[:1], n) })
	w.r.put("send to 1,000 members, all idle: CPU", ms(cpu)/n)
}

const window = 10 * time.Second // of idleness, that is looked at

func (w *world) idle() {
	w.settled()
	cpu, _ := w.cost(func() { time.Sleep(window) })
	w.r.put("CPU of ten idle seconds after the load", ms(cpu))
	w.r.put("memory after the load", float64(w.n.status("VmRSS"))/(1<<20))
	w.r.put("memory at most", float64(w.n.status("VmHWM"))/(1<<20))
}

// polls are a thousand /syncs that wait, and then one message for all of them. They leave no mark of presence: a thousand
// who come online at once in one room are a million notices, and would be all that is measured.
func (w *world) polls() {
	tokens := make([]string, len(w.all))
	w.must(together(w.all, func(i int, c *client) (err error) { tokens[i], err = c.now(); return err }))
	w.settled()
	before := w.n.status("RssAnon")
	woke := make(chan error, len(w.all))
	for i, c := range w.all {
		go func() {
			for since := tokens[i]; ; {
				s, err := c.poll(context.Background(), since, 5*time.Minute)
				if err != nil || len(s.Rooms.Join) > 0 { // not only that somebody went offline
					woke <- err
					return
				}
				since = s.Next
			}
		}()
	}
	w.settled()
	w.r.put("memory of a waiting /sync", float64(w.n.status("RssAnon")-before)/float64(len(w.all))/1024)
	cpu, _ := w.cost(func() { time.Sleep(window) })
	w.r.put("CPU of ten seconds of 1,000 waiting /syncs", ms(cpu))
	begun := time.Now()
	_, _, err := w.say(w.all[0], w.crowd)
	w.must(err)
	for range w.all {
		w.must(<-woke)
	}
	w.r.put("a message to 1,000 waiting /syncs: last one has it", ms(time.Since(begun)))
}
