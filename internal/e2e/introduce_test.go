// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tarn/matrix"
	"tarn/replicate"
)

// isContact tells whether a node has another for a contact, and who introduced it.
func (n *node) isContact(peer *node) (yes bool, by matrix.ServerName) {
	n.t.Helper()
	cs, err := n.engine.Contacts()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, c := range cs {
		if string(c.Name) == peer.user.Homeserver() && c.State == replicate.Active {
			return true, c.Introducer
		}
	}
	return false, ""
}

// Three nodes in a row. The ends of a room are introduced by the one between, also if that one and an end are started anew meanwhile, and then have
// each other's keys, and to-device messages and receipts cross.
func TestMembersOfAnEncryptedRoomAreIntroduced(t *testing.T) {
	long(t)
	synctest.Test(t, func(t *testing.T) {
		nodes := neighbours(t, []string{"ann", "ben", "cid"}, [2]int{0, 1}, [2]int{1, 2})
		ann, ben, cid := nodes[0], nodes[1], nodes[2]
		phone, laptop := ann.device(t, 20), cid.device(t, 20)
		room := gather(t, nodes, 0, 1)
		began := time.Now()
		ann.call("PUT", client+"/rooms/"+room+"/state/m.room.encryption", object{"algorithm": "m.megolm.v1.aes-sha2"}, nil)
		time.Sleep(3 * time.Second)
		ben.again()
		cid.again()
		for _, x := range []struct {
			n, of  *watcher
			device string
		}{{ann, cid, laptop.id}, {cid, ann, phone.id}} {
			until(t, "keys of "+x.of.name+" at "+x.n.name, time.Hour, func() bool {
				d, _, failed := x.n.query(x.of.user)
				return d[x.device] != nil && !failed
			})
		}
		t.Logf("keys after %v", time.Since(began))
		for _, x := range [][2]*watcher{{ann, cid}, {cid, ann}} {
			if yes, by := x[0].isContact(x[1].node); !yes || string(by) != ben.user.Homeserver() {
				t.Errorf("%s: a contact %v, by %q", x[0].name, yes, by)
			}
		}
		// One-time keys are there in advance, messages to devices come.
		var name string
		until(t, "a one-time key", time.Hour, func() bool { name, _ = ann.claim(cid.user, laptop.id); return name != "" })
		ann.sendTo(cid.user, laptop.id, "t1", object{"body": "hello"})
		cid.await("", "a message to the device", time.Hour, func(a syncAnswer) bool { return slices.Contains(a.heard(), "hello") })
	})
}
