// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	mrand "math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox/mailboxtest"
	"tarn/matrix"
	"tarn/replicate"
	"tarn/store"
	"tarn/store/storetest"
)

// device of the node's user: the one that logged in. It publishes its identity keys and some one-time keys.
func (n *node) device(t *testing.T, oneTime int) *device {
	t.Helper()
	var me struct {
		Device string `json:"device_id"`
	}
	n.call("GET", client+"/account/whoami", nil, &me)
	d := &device{t: t, n: n, id: me.Device, user: n.user}
	var public string
	d.key, public = newKey()
	_, curve := newKey()
	identity := sign(t, object{"user_id": d.user, "device_id": d.id, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": object{"ed25519:" + d.id: public, "curve25519:" + d.id: curve}}, d.user, d.id, d.key)
	n.call("POST", client+"/keys/upload", object{"device_keys": identity, "one_time_keys": d.fresh(oneTime), "fallback_keys": d.fallback()}, nil)
	return d
}

// query asks a node for a user's devices; failed tells that the user's server is among the failures.
func (n *node) query(user matrix.UserID) (devices, cross map[string]json.RawMessage, failed bool) {
	n.t.Helper()
	var a struct {
		Devices  map[matrix.UserID]map[string]json.RawMessage `json:"device_keys"`
		Master   map[matrix.UserID]json.RawMessage            `json:"master_keys"`
		Self     map[matrix.UserID]json.RawMessage            `json:"self_signing_keys"`
		User     map[matrix.UserID]json.RawMessage            `json:"user_signing_keys"`
		Failures map[string]json.RawMessage
	}
	n.call("POST", client+"/keys/query", object{"device_keys": object{string(user): []string{}}}, &a)
	cross = map[string]json.RawMessage{}
	for usage, keys := range map[string]map[matrix.UserID]json.RawMessage{"master": a.Master, "self_signing": a.Self, "user_signing": a.User} {
		if k, ok := keys[user]; ok {
			cross[usage] = k
		}
	}
	return a.Devices[user], cross, a.Failures[user.Homeserver()] != nil
}

// claim gives the name of the key that a node gave for a device, "" if none; ok: the request was answered.
func (n *node) claim(user matrix.UserID, device string) (name string, ok bool) {
	n.t.Helper()
	var a struct {
		Keys map[matrix.UserID]map[string]map[string]json.RawMessage `json:"one_time_keys"`
	}
	status, _ := n.try(n.t.Context(), "POST", client+"/keys/claim", object{"one_time_keys": object{string(user): object{device: "signed_curve25519"}}}, &a)
	for name = range a.Keys[user][device] {
	}
	return name, status == http.StatusOK
}

// until waits for something that happens on the schedule.
func until(t *testing.T, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(5 * time.Second) {
		if time.Now().After(end) {
			t.Fatalf("no %s within %v", what, limit)
		}
	}
}

func (n *node) sendTo(user matrix.UserID, device, txn string, content any) {
	n.t.Helper()
	n.call("PUT", client+"/sendToDevice/m.test/"+txn, object{"messages": object{string(user): object{device: content}}}, nil)
}

// heard are the bodies of the to-device messages in a sync answer.
func (a syncAnswer) heard() (out []string) {
	for _, e := range a.ToDevice.Events {
		out = append(out, fmt.Sprint(e.Content["body"]))
	}
	return out
}

// again ends a node and starts it from what is on its disk.
func (n *node) again() {
	n.stop()
	n.rebuild()
	n.start()
}

// TestKeysOfAnotherNodesUsers: what clients ask of keys is answered at once, from what the other node told; changes come also over a stop and a
// restart of both.
func TestKeysOfAnotherNodesUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		box := mailboxtest.New(t)
		alice, bob := newNode(t, "alice", 1, box), newNode(t, "bob", 2, box)
		phone, laptop := alice.device(t, 50), bob.device(t, 50)
		befriend(t, alice, bob)
		if devices, _, failed := bob.query(alice.user); len(devices) > 0 || !failed {
			t.Fatalf("before there is a room: %v, failed %v", devices, failed)
		}
		var created struct {
			RoomID string `json:"room_id"`
		}
		alice.call("POST", client+"/createRoom", object{"preset": "private_chat", "invite": []any{bob.user}}, &created)
		aliceSince := alice.await("", "anything", time.Minute, func(syncAnswer) bool { return true })
		bob.await("", "invite", 2*time.Hour, func(a syncAnswer) bool { return a.Rooms.Invite[created.RoomID] != nil })
		bob.call("POST", client+"/join/"+created.RoomID, object{}, nil)
		since := bob.await("", "the room", time.Minute, func(a syncAnswer) bool { return a.Rooms.Join[created.RoomID].Timeline.Events != nil })
		until(t, "keys of alice", time.Hour, func() bool { d, _, _ := bob.query(alice.user); return d[phone.id] != nil })
		// Whoever hears of bob's join has his keys already, or hears of them with the same words.
		aliceSince = alice.await(aliceSince, "bob's devices", time.Hour, func(a syncAnswer) bool {
			return slices.Contains(a.DeviceLists.Changed, bob.user) && func() bool { d, _, _ := alice.query(bob.user); return d[laptop.id] != nil }()
		})
		if d, _, failed := bob.query("@nobody:" + matrix.UserID(alice.user.Homeserver())); len(d) > 0 || failed {
			t.Errorf("a user that is not: %v, failed %v", d, failed)
		}
		var own, theirs object
		mine, _, _ := alice.query(alice.user)
		got, _, _ := bob.query(alice.user)
		if json.Unmarshal(mine[phone.id], &own) != nil || json.Unmarshal(got[phone.id], &theirs) != nil {
			t.Fatal("no JSON")
		}
		delete(own, "unsigned")
		if fmt.Sprint(own) != fmt.Sprint(theirs) {
			t.Errorf("bob has %v\nalice %v", theirs, own)
		}

		// A change while bob's node is stopped, and both restarted.
		bob.stop()
		master, self := phone.crossSign(t)
		time.Sleep(time.Minute)
		alice.again()
		time.Sleep(10 * time.Minute)
		bob.again()
		since = bob.await(since, "alice's change", 3*time.Hour, func(a syncAnswer) bool {
			_, cross, _ := bob.query(alice.user)
			return slices.Contains(a.DeviceLists.Changed, alice.user) && cross["self_signing"] != nil
		})
		until(t, "signature of alice's device", 2*time.Hour, func() bool {
			d, _, _ := bob.query(alice.user)
			var o struct {
				Signatures map[matrix.UserID]map[string]string
			}
			return json.Unmarshal(d[phone.id], &o) == nil && o.Signatures[alice.user]["ed25519:"+self] != ""
		})
		_, cross, _ := bob.query(alice.user)
		var m struct{ Keys map[string]string }
		if json.Unmarshal(cross["master"], &m) != nil || m.Keys["ed25519:"+master] != master || cross["user_signing"] != nil {
			t.Errorf("bob has of alice %s", cross)
		}
		var changes struct{ Changed, Left []matrix.UserID }
		bob.call("GET", client+"/keys/changes?from=s1_0&to="+since, nil, &changes)
		if !slices.Contains(changes.Changed, alice.user) {
			t.Errorf("changes %v", changes)
		}

		// A device that is logged out is gone there, too; bob hears that alice left.
		alice.call("POST", client+"/logout", nil, nil)
		since = bob.await(since, "alice's logout", 3*time.Hour, func(a syncAnswer) bool {
			d, _, failed := bob.query(alice.user)
			return slices.Contains(a.DeviceLists.Changed, alice.user) && len(d) == 0 && !failed
		})
		bob.call("POST", client+"/rooms/"+created.RoomID+"/leave", object{}, nil)
		bob.await(since, "the end of sharing", time.Minute, func(a syncAnswer) bool { return slices.Contains(a.DeviceLists.Left, alice.user) })
		alice.token = "" // its sync ends with the device
		_ = aliceSince
	})
}

// TestClaimsAcrossNodes: keys are there in advance and come again before they are all gone; then the fallback key, of which its owner hears.
func TestClaimsAcrossNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		minutes := replicate.CustomProfile(time.Minute, 0.3)
		_, alice, bob, _, _ := meetAt(t, &minutes)
		laptop := bob.device(t, 20)
		until(t, "keys of bob", time.Hour, func() bool { d, _, _ := alice.query(bob.user); return d[laptop.id] != nil })
		given := map[string]bool{}
		take := func(n *node) (name string) {
			name, ok := n.claim(bob.user, laptop.id)
			if !ok {
				t.Fatal("a claim failed")
			}
			if name != "" && name[len("signed_curve25519:")] == 'K' && given[name] {
				t.Fatalf("%s was given twice", name)
			}
			given[name] = true
			return name
		}
		var counts syncAnswer
		bob.call("GET", client+"/sync", nil, &counts)
		if n := counts.OneTime["signed_curve25519"]; n != 15 { // a quarter of twenty is handed out
			t.Errorf("bob's device is told that %d keys are left", n)
		}
		// All of them, by both nodes, with time for more to come.
		for range 40 {
			take(alice)
			take(bob)
			time.Sleep(10 * time.Minute)
		}
		oneTime := 0
		for name := range given {
			if name[len("signed_curve25519:")] == 'K' {
				oneTime++
			}
		}
		if oneTime != 20 {
			t.Errorf("%d of 20 one-time keys were given", oneTime)
		}
		if name := take(alice); name != "signed_curve25519:F0021" {
			t.Errorf("after all were gone alice got %q", name)
		}
		// Its owner hears that the fallback key was used, and its new one comes.
		until(t, "word that the fallback key was used", 2*time.Hour, func() bool {
			var a syncAnswer
			bob.call("GET", client+"/sync", nil, &a)
			return len(a.Unused) == 0
		})
		bob.call("POST", client+"/keys/upload", object{"fallback_keys": laptop.fallback()}, nil)
		until(t, "the new fallback key", 2*time.Hour, func() bool { return take(alice) == "signed_curve25519:F0022" })
		laptop.upload(laptop.fresh(30))
		until(t, "new one-time keys", 3*time.Hour, func() bool { name := take(alice); return name[len("signed_curve25519:")] == 'K' })
	})
}

// TestToDeviceAcrossNodes: in order, once, to the device that is named or to all, over stops and restarts and a week without the other.
func TestToDeviceAcrossNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := profile()
		_, alice, bob, room, since := meetAt(t, &p)
		laptop := bob.device(t, 10)
		alice.device(t, 10)
		start := time.Now()
		alice.sendTo(bob.user, laptop.id, "first", object{"body": "first"})
		alice.sendTo(bob.user, "NOBODY", "none", object{"body": "for no device"})
		if !time.Now().Equal(start) {
			t.Error("PUT /sendToDevice waited")
		}
		var heard []string
		collect := func(want int) {
			t.Helper()
			since = bob.await(since, "to-device messages", 7*24*time.Hour, func(a syncAnswer) bool {
				heard = append(heard, a.heard()...)
				return len(heard) >= want
			})
		}
		collect(1)
		want := []string{"first"}
		bob.stop()
		p = replicate.CustomProfile(10*time.Minute, 0.3) // a week of frames is computed
		alice.again()
		for i := range 40 {
			body := fmt.Sprintf("%02d", i)
			content := object{"body": body}
			if i%7 == 0 {
				content["padding"] = fmt.Sprintf("%x", random(20_000)) // in fragments
			}
			to := laptop.id
			if i%2 == 0 {
				to = "*"
			}
			alice.sendTo(bob.user, to, "t"+body, content)
			alice.sendTo(bob.user, to, "t"+body, object{"body": "the same transaction again"})
			want = append(want, body)
			if i%13 == 12 {
				alice.again()
			}
			time.Sleep(4*time.Hour + 15*time.Minute) // over a week in all
		}
		alice.call("PUT", client+"/rooms/"+room+"/send/m.room.message/m1", object{"msgtype": "m.text", "body": "after them"}, nil)
		p = replicate.CustomProfile(30*time.Second, 0.3)
		alice.again()
		bob.rebuild()
		bob.start()
		collect(20)
		// What a sync gave and the next did not acknowledge comes again, also after a restart.
		again := since
		var a, b syncAnswer
		until(t, "more messages", 48*time.Hour, func() bool {
			bob.call("GET", client+"/sync?since="+again, nil, &a)
			return len(a.ToDevice.Events) > 0
		})
		bob.again()
		bob.call("GET", client+"/sync?since="+again, nil, &b)
		if len(b.heard()) < len(a.heard()) || !slices.Equal(a.heard(), b.heard()[:len(a.heard())]) {
			t.Errorf("heard %q, then %q", a.heard(), b.heard())
		}
		collect(len(want))
		if !slices.Equal(heard, want) {
			t.Fatalf("heard %q\nwanted %q", heard, want)
		}
		until(t, "quiet", 7*24*time.Hour, func() bool { return len(alice.pending(bob)) == 0 })
		for end := time.Now().Add(time.Hour); time.Now().Before(end); {
			var a syncAnswer
			bob.call("GET", client+"/sync?timeout=30000&since="+since, nil, &a)
			if since = a.NextBatch; len(a.heard()) > 0 {
				t.Fatalf("heard again: %q", a.heard())
			}
		}
	})
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// TestCrashesGiveNoKeyTwiceAndLoseNoMessage kills both nodes at drawn writes, while keys are handed out, claimed at both nodes and made anew, and
// messages are sent: no one-time key is ever shown twice, and every message that was acknowledged to its sender comes, once, in order.
func TestCrashesGiveNoKeyTwiceAndLoseNoMessage(t *testing.T) {
	for seed := range 2 {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { crashes(t, mathrand(seed)) })
		})
	}
}

func crashes(t *testing.T, draw func(int) int) {
	_, alice, bob, _, since := meet(t)
	phone, laptop := alice.device(t, 30), bob.device(t, 30)
	disks := map[*node]store.KV{alice: alice.kv, bob: bob.kv}
	restart := func(n *node, crash int) {
		n.stop()
		n.kv = disks[n]
		n.rebuild()
		if crash > 0 { // New and the clients' own writes come to their end
			n.kv = &storetest.Mortal{KV: disks[n], Left: crash, After: draw(2) == 1}
			n.rebuild()
		}
		n.start()
	}
	given := map[string]int{}
	claim := func(n *node, d *device) {
		if name, ok := n.claim(d.user, d.id); ok && name != "" && name[len("signed_curve25519:")] == 'K' {
			given[string(d.user)+name]++
		}
	}
	var sent, heard []string
	for round := range 12 {
		for _, n := range []*node{alice, bob} {
			if draw(3) > 0 {
				restart(n, 1+draw(30))
			} else {
				restart(n, 0)
			}
		}
		for i := range 6 {
			body := fmt.Sprintf("%d.%d", round, i)
			status, _ := alice.try(t.Context(), "PUT", client+"/sendToDevice/m.test/t"+body, object{"messages": object{string(bob.user): object{laptop.id: object{"body": body}}}}, nil)
			if status != http.StatusOK { // the client tries until it is answered
				restart(alice, 0)
				alice.sendTo(bob.user, laptop.id, "t"+body, object{"body": body})
			}
			sent = append(sent, body)
			for _, n := range []*node{alice, bob} {
				claim(n, phone)
				claim(n, laptop)
			}
			time.Sleep(time.Duration(draw(100)) * time.Second)
		}
		if draw(3) == 0 {
			restart(alice, 0)
			restart(bob, 0)
			phone.upload(phone.fresh(10))
			laptop.upload(laptop.fresh(10))
		}
	}
	restart(alice, 0)
	restart(bob, 0)
	bob.await(since, "all messages", 24*time.Hour, func(a syncAnswer) bool {
		heard = append(heard, a.heard()...)
		return len(heard) >= len(sent)
	})
	if !slices.Equal(heard, sent) {
		t.Errorf("heard %q\nsent %q", heard, sent)
	}
	across := 0
	for name, n := range given {
		if n > 1 {
			t.Errorf("%s was given %d times", name, n)
		}
		across++
	}
	t.Logf("%d one-time keys were given", across)
	if across < 20 {
		t.Errorf("only %d one-time keys were given: the play shows nothing", across)
	}
}

func mathrand(seed int) func(int) int {
	r := mrand.New(mrand.NewPCG(uint64(seed), 7))
	return r.IntN
}
