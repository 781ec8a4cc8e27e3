// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"fmt"
	"strings"
	"testing"

	"tarn/store"
	"tarn/store/storetest"
)

// TestAFirstSyncReadsAsMuchOfEachRoom: ten times the rooms are ten times the rows, on a node that has just begun as on one that
// has all in memory.
func TestAFirstSyncReadsAsMuchOfEachRoom(t *testing.T) {
	reads := func(rooms int) (cold, warm int) {
		kv := storetest.Count(store.OpenMemory())
		n := openNode(t, kv, true)
		alice, bob := n.person("alice"), n.person("bob")
		for i := range rooms {
			r := alice.create(obj{"preset": "public_chat", "name": fmt.Sprint("Room ", i)})
			bob.do("POST", "/join/"+esc(r), obj{}).ok()
			for range 12 {
				alice.say(r, "x")
			}
		}
		bob.n = openNode(t, kv, true)
		sync := func() int {
			kv.Take()
			if o := bob.sync(""); len(at(o, "rooms", "join").(obj)) != rooms {
				t.Fatalf("%d rooms", len(at(o, "rooms", "join").(obj)))
			}
			return kv.Take().Reads()
		}
		return sync(), sync()
	}
	cold, warm := reads(4)
	cold10, warm10 := reads(40)
	t.Logf("4 rooms: %d rows, then %d; 40 rooms: %d, %d", cold, warm, cold10, warm10)
	if cold10 > 10*cold || warm10 > 10*warm || warm >= cold {
		t.Errorf("4 rooms: %d rows, then %d; 40 rooms: %d, %d", cold, warm, cold10, warm10)
	}
	if cold > 4*120 {
		t.Errorf("%d rows of each room", cold/4)
	}
}

// TestALargeAnswerIsSentWhileItIsMade: it says the same as a small one, without its length before.
func TestALargeAnswerIsSentWhileItIsMade(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	r := alice.meet()
	text := strings.Repeat("a long text ", 5000)
	for range 20 {
		alice.say(r, text)
	}
	for _, limit := range []int{1, 20} {
		a := alice.do("GET", fmt.Sprintf(`/sync?filter={"room":{"timeline":{"limit":%d}}}`, limit), nil)
		events := list(a.ok(), "rooms", "join", r, "timeline", "events")
		if len(events) != limit || at(events[limit-1], "content", "body") != text {
			t.Errorf("%d events of %d", len(events), limit)
		}
		if large := len(a.raw) > wholeAnswer; large != (limit == 20) || large == (a.header.Get("Content-Length") != "") || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%d bytes, %v", len(a.raw), a.header)
		}
	}
}
