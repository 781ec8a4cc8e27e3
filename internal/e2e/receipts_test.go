// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"
)

// TestReceiptsBetweenNodes: what bob has read of a room, and of a thread, alice sees; what he read privately she does not, nor that he types.
func TestReceiptsBetweenNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, alice, bob, room, bobSince := meet(t)
		since := alice.await("", "her own rooms", time.Minute, func(syncAnswer) bool { return true })
		say := func(txn string, content object) (id string) {
			t.Helper()
			var sent struct {
				EventID string `json:"event_id"`
			}
			content["msgtype"], content["body"] = "m.text", txn
			alice.call("PUT", client+"/rooms/"+room+"/send/m.room.message/"+txn, content, &sent)
			return sent.EventID
		}
		root := say("root", object{})
		reply := say("reply", object{"m.relates_to": object{"rel_type": "m.thread", "event_id": root}})
		last := say("last", object{})
		seen := 0
		bob.await(bobSince, "three messages", 2*time.Hour, func(a syncAnswer) bool { seen += len(a.texts(room)); return seen == 3 })
		receipt := func(kind, event string, body object) {
			t.Helper()
			bob.call("POST", client+"/rooms/"+room+"/receipt/"+kind+"/"+event, body, nil)
		}
		receipt("m.read.private", last, object{})
		receipt("m.read", reply, object{"thread_id": root})
		receipt("m.read", root, object{})
		bob.call("PUT", client+"/rooms/"+room+"/typing/"+string(bob.user), object{"typing": true, "timeout": 100_000}, nil)

		type read struct{ event, thread string }
		got := map[read]int{}
		collect := func(a syncAnswer) {
			for _, e := range a.Rooms.Join[room].Ephemeral.Events {
				if e.Type == "m.typing" {
					t.Errorf("alice hears of typing at another node: %s", e.Content)
				}
				if e.Type != "m.receipt" {
					continue
				}
				var c map[string]map[string]map[string]struct {
					Thread string `json:"thread_id"`
				}
				if err := json.Unmarshal(e.Content, &c); err != nil {
					t.Fatal(err)
				}
				for event, kinds := range c {
					for kind, users := range kinds {
						if r, ok := users[string(bob.user)]; ok {
							if kind != "m.read" {
								t.Errorf("alice sees %s", kind)
							}
							got[read{event, r.Thread}]++
						}
					}
				}
			}
		}
		since = alice.await(since, "bob's receipts", 2*time.Hour, func(a syncAnswer) bool { collect(a); return len(got) == 2 })
		if got[read{reply, root}] != 1 || got[read{root, ""}] != 1 {
			t.Errorf("alice sees %v", got)
		}
		for end := time.Now().Add(time.Hour); time.Now().Before(end); {
			var a syncAnswer
			alice.call("GET", client+"/sync?timeout=30000&since="+since, nil, &a)
			since = a.NextBatch
			collect(a)
		}
		if len(got) != 2 || got[read{reply, root}] != 1 || got[read{root, ""}] != 1 {
			t.Errorf("an hour later alice sees %v", got)
		}
	})
}
