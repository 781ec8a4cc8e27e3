// SPDX-License-Identifier: Apache-2.0

package load

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Rounds of TestKilledNodeKeepsWhatItAcknowledged, each ended by SIGKILL.
const (
	killRounds     = 4
	killRoundsFull = 60
)

// TestKilledNodeKeepsWhatItAcknowledged: fifteen clients write of everything that there is to write, the node is killed
// with SIGKILL the moment after some acknowledgement, and runs again. Then all that was acknowledged is there, once; what
// was asked and not answered is there once when it is asked again under its transaction id; /sync goes on from its last
// token without a gap or a double; and the sliding sync's position is refused as the MSC says, not misread.
func TestKilledNodeKeepsWhatItAcknowledged(t *testing.T) {
	rounds := killRounds
	if os.Getenv("TARN_FULL") != "" {
		rounds = killRoundsFull
	}
	p := newPlay(t)
	for p.round = range rounds {
		p.load(150 + mathrand.IntN(350))
		if took := p.n.start(); p.round == 0 {
			t.Logf("up %v after the kill", took)
		}
		p.again()
		p.check()
		if t.Failed() {
			t.Fatalf("in round %d", p.round)
		}
	}
	t.Logf("%d rounds: %d messages, %d state events, %d to-device events, %d account data, %d files, %d keys, %d rooms, %d users acknowledged and found",
		rounds, len(p.said.done), len(p.set.done), len(p.mail.done), len(p.data.done), len(p.files.done), len(p.keys.done), len(p.rooms.done), len(p.users.done))
}

// play is the people, and what the node told them.
type play struct {
	t                       *testing.T
	n                       *node
	round                   int
	alice, bob, carol, dave *client
	sink                    *client // a device of bob's that only reads to-device events, later
	keyed                   *client // a device of carol's that uploads one-time keys
	earlier                 int     // one-time keys that other devices of hers uploaded before
	room                    string

	said, set, mail, data, files, keys, rooms, users ledger

	since     string            // of bob's /sync
	seen      map[string]int    // events of the room that it gave
	mailSince string            // of the sink's
	mailSeen  map[string]int    // to-device events that it gave
	pos       string            // of dave's sliding sync
	backup    string            // a version of carol's key backup
	contents  map[string][]byte // files by their ids, guarded by files.mu
	stop      func()            // ends the load
	left      atomic.Int64      // acknowledgements until the kill
}

// ledger is what one kind of writers asked, and what they were told.
type ledger struct {
	mu   sync.Mutex
	done map[string]string        // asked and acknowledged: name → what the answer said
	open map[string]func() string // asked without an answer: name → ask again, and what the answer says
}

func (l *ledger) ask(name string, again func() string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.done, l.open = map[string]string{}, map[string]func() string{}
	}
	l.open[name] = again
}

func (l *ledger) ack(name, answer string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.open, name)
	l.done[name] = answer
}

func newPlay(t *testing.T) *play {
	n := newNode(t)
	n.start()
	p := &play{t: t, n: n, seen: map[string]int{}, mailSeen: map[string]int{}, contents: map[string][]byte{}}
	for name, c := range map[string]**client{"alice": &p.alice, "bob": &p.bob, "carol": &p.carol, "dave": &p.dave} {
		*c = n.register(name)
	}
	p.sink, p.keyed = p.bob.login(), p.carol.login()
	p.room = p.alice.meet(p.bob, p.carol, p.dave)
	// What each wants to set is theirs to set.
	p.alice.ask("PUT", "/rooms/"+p.room+"/state/m.room.power_levels/", map[string]any{"users_default": 50}, nil)
	var backup struct {
		Version string `json:"version"`
	}
	p.carol.ask("POST", "/room_keys/version", map[string]any{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": map[string]any{"public_key": "x"}}, &backup)
	p.backup = backup.Version
	var s synced
	p.bob.ask("GET", "/sync?"+p.filter(), nil, &s)
	p.since = s.Next
	p.sink.ask("GET", "/sync", nil, &s)
	p.mailSince = s.Next
	return p
}

// filter makes timelines long enough never to have a gap.
func (p *play) filter() string {
	return "filter=" + url.QueryEscape(`{"room":{"timeline":{"limit":500}}}`)
}

// load lets all write at once until acks acknowledgements have come, and kills the node at once then.
func (p *play) load(acks int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p.left.Store(int64(acks))
	var once sync.Once
	p.stop = func() { once.Do(func() { p.n.kill(); cancel() }) }
	var all sync.WaitGroup
	for i, c := range []*client{p.alice, p.alice, p.bob, p.carol, p.dave, p.dave} {
		all.Go(func() { p.repeat(ctx, &p.said, fmt.Sprint("say", i), p.sayer(c)) })
	}
	for what, do := range map[string]struct {
		l  *ledger
		do func(ctx context.Context, name string) (string, error)
	}{
		"set": {&p.set, p.setter}, "topic": {&p.set, p.topic}, "mail": {&p.mail, p.mailer}, "data": {&p.data, p.datum}, "file": {&p.files, p.file},
		"key": {&p.keys, p.key}, "session": {&p.keys, p.session}, "room": {&p.rooms, p.makeRoom}, "user": {&p.users, p.user},
	} {
		all.Go(func() { p.repeat(ctx, do.l, what, do.do) })
	}
	all.Go(func() {
		for p.follow(ctx, 1000) {
		}
	})
	all.Go(func() {
		for p.slide(ctx) {
		}
	})
	all.Wait()
}

// repeat asks for one after the other until the node is gone.
func (p *play) repeat(ctx context.Context, l *ledger, what string, do func(ctx context.Context, name string) (string, error)) {
	for i := 0; ; i++ {
		name := fmt.Sprintf("%s.%d.%d", what, p.round, i)
		l.ask(name, func() string {
			answer, err := do(context.Background(), name)
			if err != nil {
				p.t.Errorf("%s once more: %v", name, err)
			}
			return answer
		})
		answer, err := do(ctx, name)
		if err != nil {
			p.lost(err)
			return
		}
		l.ack(name, answer)
		if p.left.Add(-1) == 0 {
			p.stop()
		}
	}
}

// lost takes the error of a node that was killed; an answer that says no is none.
func (p *play) lost(err error) {
	var no *answered
	if errors.As(err, &no) {
		p.t.Error(err)
	}
	p.stop() // all the more if the node died by itself
}

func (p *play) sayer(c *client) func(ctx context.Context, name string) (string, error) {
	return func(ctx context.Context, name string) (string, error) { return c.send(ctx, p.room, name, text(name)) }
}

// setter sets a piece of state of its own each time.
func (p *play) setter(ctx context.Context, name string) (string, error) {
	return p.state(ctx, p.bob, "org.tarn.test/"+name, map[string]any{"n": name})
}

// topic sets the same piece of state each time.
func (p *play) topic(ctx context.Context, name string) (string, error) {
	return p.state(ctx, p.carol, "m.room.topic/", map[string]any{"topic": name})
}

func (p *play) state(ctx context.Context, c *client, slot string, content any) (string, error) {
	raw, err := c.do(ctx, "PUT", "/rooms/"+p.room+"/state/"+slot, content)
	var a event
	if err == nil {
		err = json.Unmarshal(raw, &a)
	}
	return a.ID, err
}

func (p *play) mailer(ctx context.Context, name string) (string, error) {
	_, err := p.alice.do(ctx, "PUT", "/sendToDevice/org.tarn.test/"+name, map[string]any{"messages": map[string]any{p.sink.user: map[string]any{p.sink.device: map[string]any{"n": name}}}})
	return "", err
}

func (p *play) datum(ctx context.Context, name string) (string, error) {
	_, err := p.dave.do(ctx, "PUT", "/user/"+p.dave.user+"/account_data/org.tarn."+name, map[string]any{"n": name})
	if err == nil {
		_, err = p.dave.do(ctx, "PUT", "/user/"+p.dave.user+"/rooms/"+p.room+"/account_data/org.tarn."+name, map[string]any{"n": name})
	}
	return "", err
}

func (p *play) file(ctx context.Context, name string) (string, error) {
	content := make([]byte, 20_000)
	rand.Read(content)
	raw, err := p.alice.do(ctx, "POST", "/_matrix/media/v3/upload?filename="+name, content)
	if err != nil {
		return "", err
	}
	var a struct {
		URI string `json:"content_uri"`
	}
	err = json.Unmarshal(raw, &a)
	id := strings.TrimPrefix(a.URI, "mxc://")
	p.files.mu.Lock()
	defer p.files.mu.Unlock()
	p.contents[id] = content
	return id, err
}

// key uploads a one-time key.
func (p *play) key(ctx context.Context, name string) (string, error) {
	k := make([]byte, 32)
	copy(k, name)
	raw, err := p.keyed.do(ctx, "POST", "/keys/upload", map[string]any{"one_time_keys": map[string]any{"curve25519:" + name: base64.RawStdEncoding.EncodeToString(k)}})
	if err != nil {
		return "", err
	}
	return "", json.Unmarshal(raw, &struct{}{})
}

// session puts a session into the key backup.
func (p *play) session(ctx context.Context, name string) (string, error) {
	_, err := p.carol.do(ctx, "PUT", "/room_keys/keys/"+p.room+"/"+name+"?version="+p.backup, map[string]any{
		"first_message_index": 0, "forwarded_count": 0, "is_verified": false, "session_data": map[string]any{"n": name}})
	return "", err
}

func (p *play) makeRoom(ctx context.Context, name string) (string, error) {
	raw, err := p.bob.do(ctx, "POST", "/createRoom", map[string]any{"name": name})
	if err != nil {
		return "", err
	}
	var a struct {
		Room string `json:"room_id"`
	}
	return a.Room, json.Unmarshal(raw, &a)
}

// user makes an account; asked again, its name is taken if the first question had got through.
func (p *play) user(ctx context.Context, name string) (string, error) {
	_, err := (&client{n: p.n}).do(ctx, "POST", "/register", map[string]any{"username": name, "password": password, "auth": map[string]any{"type": "m.login.dummy"}})
	var no *answered
	if errors.As(err, &no) && no.code == "M_USER_IN_USE" {
		p.users.mu.Lock()
		_, asked := p.users.open[name]
		p.users.mu.Unlock()
		if asked {
			return "", nil
		}
	}
	return "", err
}

// follow takes one answer of bob's /sync; false: there was none.
func (p *play) follow(ctx context.Context, timeout int) bool {
	raw, err := p.bob.do(ctx, "GET", fmt.Sprintf("/sync?%s&timeout=%d&since=%s", p.filter(), timeout, p.since), nil)
	if err != nil {
		p.lost(err)
		return false
	}
	var s synced
	if err := json.Unmarshal(raw, &s); err != nil {
		p.t.Error(err)
		return false
	}
	p.since = s.Next
	j := s.Rooms.Join[p.room]
	if j.Timeline.Limited {
		p.t.Errorf("a gap in the /sync: a token was not good")
	}
	for _, e := range j.Timeline.Events {
		p.seen[e.ID]++
	}
	return len(j.Timeline.Events) > 0 || timeout > 0
}

// slide takes one answer of dave's sliding sync; false: there was none.
func (p *play) slide(ctx context.Context) bool {
	raw, err := p.dave.slide(ctx, p.pos, p.room, 1000)
	if err != nil {
		p.lost(err)
		return false
	}
	var a struct {
		Pos string `json:"pos"`
	}
	if err := json.Unmarshal(raw, &a); err != nil || a.Pos == "" {
		p.t.Error("no position", err)
		return false
	}
	p.pos = a.Pos
	return true
}

func (c *client) slide(ctx context.Context, pos, room string, timeout int) ([]byte, error) {
	path := fmt.Sprintf("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=%d", timeout)
	if pos != "" {
		path += "&pos=" + pos
	}
	return c.do(ctx, "POST", path, map[string]any{
		"lists":              map[string]any{"all": map[string]any{"ranges": []any{[]int{0, 9}}, "timeline_limit": 1, "required_state": []any{}}},
		"room_subscriptions": map[string]any{room: map[string]any{"timeline_limit": 20, "required_state": []any{[]string{"m.room.topic", ""}}}},
	})
}

// again asks once more for all that got no answer.
func (p *play) again() {
	for _, l := range []*ledger{&p.said, &p.set, &p.mail, &p.data, &p.files, &p.keys, &p.rooms, &p.users} {
		for name, again := range l.open {
			if strings.HasPrefix(name, "room.") { // has no transaction id: the room is there or is not
				delete(l.open, name)
				continue
			}
			l.ack(name, again())
		}
	}
}
