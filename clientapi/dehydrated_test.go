// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"fmt"
	"testing"

	"tarn/matrix"
)

func TestDehydratedDevice(t *testing.T) {
	const path = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
	n := newNode(t)
	alice, bob := n.person("alice"), n.person("bob")
	alice.meet(bob)
	alice.do("GET", path, nil).fails(404, "M_NOT_FOUND")
	alice.do("DELETE", path, nil).fails(404, "M_NOT_FOUND")
	body := func(id string) obj {
		d, k := &device{n: n, user: alice.user, id: matrix.DeviceID(id)}, newKey(t)
		otk := k.sign(t, obj{"key": newKey(t).pub}, alice.user, id)
		return obj{"device_id": id, "device_data": obj{"algorithm": "m.dehydration.v1.olm", "x": "y"}, "initial_device_display_name": "Dehydrated",
			"device_keys": k.sign(t, d.identity(k), alice.user, id), "one_time_keys": obj{"signed_curve25519:A": otk}}
	}
	since := bob.sync("")["next_batch"].(string)
	if o := alice.do("PUT", path, body("DRY1")).ok(); o["device_id"] != "DRY1" {
		t.Errorf("%v", o)
	}
	if o := bob.sync(since); at(o, "device_lists", "changed", 0) != string(alice.user) {
		t.Errorf("bob does not hear of the device: %v", o["device_lists"])
	}
	o := alice.do("GET", path, nil).ok()
	if o["device_id"] != "DRY1" || at(o, "device_data", "x") != "y" {
		t.Errorf("%v", o)
	}
	query := func(id string) any {
		return at(bob.do("POST", "/keys/query", obj{"device_keys": obj{string(alice.user): []string{}}}).ok(), "device_keys", string(alice.user), id)
	}
	if query("DRY1") == nil {
		t.Error("others do not see the device")
	}
	claim := bob.do("POST", "/keys/claim", obj{"one_time_keys": obj{string(alice.user): obj{"DRY1": "signed_curve25519"}}}).ok()
	if at(claim, "one_time_keys", string(alice.user), "DRY1") == nil {
		t.Errorf("%v", claim)
	}
	for i := range 150 {
		bob.do("PUT", fmt.Sprintf("/sendToDevice/m.room.encrypted/t%d", i), obj{"messages": obj{string(alice.user): obj{"DRY1": obj{"n": i}}}}).ok()
	}
	// The events come in pieces, each once, and again if they are asked for again.
	for _, method := range []string{"POST", "GET", "GET"} {
		next, got := "", 0
		for {
			ask, query := obj{}, ""
			if next != "" {
				ask["next_batch"], query = next, "?from="+next
			}
			var o obj
			if method == "GET" {
				o = alice.do(method, path+"/DRY1/events"+query, nil).ok()
			} else {
				o = alice.do(method, path+"/DRY1/events", ask).ok()
			}
			events := list(o, "events")
			if len(events) == 0 {
				break
			}
			for _, e := range events {
				if at(e, "content", "n") != float64(got) {
					t.Fatalf("event %d: %v", got, e)
				}
				got++
			}
			more := false
			if next, more = o["next_batch"].(string); !more {
				if method == "POST" {
					t.Error("no next_batch")
				}
				break
			}
		}
		if got != 150 {
			t.Errorf("%d events", got)
		}
	}
	alice.do("POST", path+"/OTHER/events", obj{}).fails(403, "M_FORBIDDEN")
	bob.do("POST", path+"/DRY1/events", obj{}).fails(404, "M_NOT_FOUND")
	alice.do("POST", path+"/DRY1/events", obj{"next_batch": "x"}).fails(400, "M_INVALID_PARAM")

	// Another takes its place; a device with a session does not become one.
	alice.do("PUT", path, body(string(alice.id))).fails(400, "M_INVALID_PARAM")
	alice.do("PUT", path, body("DRY2")).ok()
	if query("DRY1") != nil || query("DRY2") == nil {
		t.Error("the old one is there, or the new one is not")
	}
	wrong := body("DRY3")
	wrong["device_id"] = "DRY4"
	alice.do("PUT", path, wrong).fails(400, "M_INVALID_PARAM")
	for _, name := range []string{"device_id", "device_data", "device_keys"} {
		o := body("DRY3")
		delete(o, name)
		alice.do("PUT", path, o).fails(400, "M_MISSING_PARAM")
	}
	if o := alice.do("GET", path, nil).ok(); o["device_id"] != "DRY2" {
		t.Errorf("a refused one took the other's place: %v", o)
	}
	if o := alice.do("DELETE", path, nil).ok(); o["device_id"] != "DRY2" {
		t.Errorf("%v", o)
	}
	if query("DRY2") != nil {
		t.Error("a deleted one is there")
	}
	// It ends also like any device.
	alice.do("PUT", path, body("DRY5")).ok()
	alice.do("POST", "/delete_devices", obj{"devices": []string{"DRY5"}, "auth": obj{"type": "m.login.password", "password": password}}).ok()
	alice.do("GET", path, nil).fails(404, "M_NOT_FOUND")
}
