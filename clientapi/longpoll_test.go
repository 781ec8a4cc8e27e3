// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/store"
)

func TestEmptyNodeDoesNotSpin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		alice := n.person("alice")
		since := alice.sync("")["next_batch"].(string)
		start := time.Now()
		alice.sync(since, "timeout", "30000")
		if got := time.Since(start); got != 30*time.Second {
			t.Errorf("an empty poll took %v", got)
		}
	})
}

func TestLongPollWakesForEachKindOfChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		alice, bob := n.person("alice"), n.person("bob")
		r := alice.meet(bob)
		p := "/rooms/" + esc(r)
		id := alice.say(r, "x")
		for name, change := range map[string]func(){
			"message":           func() { alice.say(r, "y") },
			"own message":       func() { bob.say(r, "z") },
			"state":             func() { alice.do("PUT", p+"/state/m.room.name", obj{"name": fmt.Sprint(time.Now())}).ok() },
			"typing":            func() { alice.do("PUT", p+"/typing/"+esc(alice.user), obj{"typing": true, "timeout": 3600000}).ok() },
			"receipt":           func() { alice.do("POST", p+"/receipt/m.read/"+esc(id), obj{}).ok() },
			"account data":      func() { bob.do("PUT", "/user/"+esc(bob.user)+"/account_data/org.x", obj{"a": 1}).ok() },
			"room account data": func() { bob.do("PUT", "/user/"+esc(bob.user)+p+"/account_data/org.x", obj{"a": 1}).ok() },
			"invite":            func() { alice.create(obj{"invite": []any{bob.user}}) },
		} {
			since := bob.sync("")["next_batch"].(string)
			done := make(chan obj)
			start := time.Now()
			go func() { done <- bob.sync(since, "timeout", "60000") }()
			synctest.Wait()
			time.Sleep(10 * time.Second)
			select {
			case o := <-done:
				t.Fatalf("%s: woke for nothing: %v", name, o)
			default:
			}
			change()
			o := <-done
			if waited := time.Since(start); waited != 10*time.Second {
				t.Errorf("%s: woke after %v", name, waited)
			}
			if o["next_batch"] == since {
				t.Errorf("%s: the token stands still", name)
			}
			bob.do("PUT", p+"/typing/"+esc(bob.user), obj{"typing": false})
			alice.do("PUT", p+"/typing/"+esc(alice.user), obj{"typing": false})
		}
	})
}

func TestLongPollEndsWithTheSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		alice, bob := n.person("alice"), n.person("bob")
		r := alice.meet(bob)
		since := bob.sync("")["next_batch"].(string)
		done := make(chan answer)
		go func() { done <- bob.do("GET", "/sync?timeout=60000&since="+since, nil) }()
		synctest.Wait()
		bob.do("POST", "/logout", nil).ok()
		alice.say(r, "not for a session that ended")
		(<-done).fails(401, "M_UNKNOWN_TOKEN")
	})
}

// TestSendIsAnsweredBeforeSyncShowsIt: matrix-js-sdk hangs, or sends twice, if its own event comes first by /sync.
func TestSendIsAnsweredBeforeSyncShowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		alice := n.person("alice")
		tablet := n.person("alice")
		r := alice.meet()
		since := alice.sync("")["next_batch"].(string)

		w := &slowWriter{ResponseRecorder: httptest.NewRecorder(), open: make(chan struct{})}
		sent := make(chan struct{})
		go func() {
			q := httptest.NewRequest("PUT", "/_matrix/client/v3/rooms/"+esc(r)+"/send/m.room.message/1", strings.NewReader(`{"body":"x"}`))
			q.Header.Set("Authorization", "Bearer "+alice.token)
			n.api.ServeHTTP(w, q)
			close(sent)
		}()
		synctest.Wait() // the event is stored, its answer is stuck
		if got := bodies(list(tablet.sync(since), "rooms", "join", r, "timeline", "events")); !slices.Equal(got, []string{"x"}) {
			t.Errorf("the other device sees %v", got)
		}
		done := make(chan obj)
		go func() { done <- alice.sync(since) }()
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("/sync showed the event before its answer")
		default:
		}
		close(w.open)
		<-sent
		if got := bodies(list(<-done, "rooms", "join", r, "timeline", "events")); !slices.Equal(got, []string{"x"}) {
			t.Errorf("then the device sees %v", got)
		}
	})
}

type slowWriter struct {
	*httptest.ResponseRecorder
	open chan struct{}
}

func (w *slowWriter) Write(b []byte) (int, error) { <-w.open; return w.ResponseRecorder.Write(b) }

// A position is a place among all changes: whatever the order of commits, nothing is skipped.
func TestNextBatchSkipsNothingWithConcurrentWriters(t *testing.T) {
	n := newNode(t)
	reader := n.person("reader")
	var rooms []string
	var people []*device
	for i := range 4 {
		p := n.person(fmt.Sprintf("u%d", i))
		people, rooms = append(people, p), append(rooms, p.meet(reader))
	}
	since := reader.sync("")["next_batch"].(string)
	done := make(chan struct{})
	for i, p := range people {
		go func() {
			for range 40 {
				p.say(rooms[i], "x")
			}
			done <- struct{}{}
		}()
	}
	got, left := 0, len(people)
	for last := false; !last; {
		last = left == 0
		o := reader.sync(since, "filter", `{"room":{"timeline":{"limit":100}}}`)
		since = o["next_batch"].(string)
		for _, r := range rooms {
			got += len(list(o, "rooms", "join", r, "timeline", "events"))
		}
		select {
		case <-done:
			left--
		default:
		}
	}
	if got != 4*40 {
		t.Errorf("%d of %d events came by /sync", got, 4*40)
	}
}

var _ Waiter = (*store.Stream)(nil)
