// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tarn/mailbox/mailboxtest"
)

// TestContactsTogetherGetFewOneTimeKeys: a client forgets the oldest of the keys that it has published and nobody has used, so many contacts are
// not each handed as many as one would be.
func TestContactsTogetherGetFewOneTimeKeys(t *testing.T) {
	long(t)
	synctest.Test(t, func(t *testing.T) {
		box := mailboxtest.New(t)
		alice := newNode(t, "alice", 1, box)
		phone := alice.device(t, 50)
		var invite []any
		var others []*node
		for i := range 6 {
			n := newNode(t, fmt.Sprint("bob", i), byte(2+i), box)
			befriend(t, alice, n)
			others, invite = append(others, n), append(invite, n.user)
		}
		var created struct {
			RoomID string `json:"room_id"`
		}
		alice.call("POST", client+"/createRoom", object{"preset": "private_chat", "invite": invite}, &created)
		for _, n := range others {
			n.await("", "invite", 2*time.Hour, func(a syncAnswer) bool { return a.Rooms.Invite[created.RoomID] != nil })
			n.call("POST", client+"/join/"+created.RoomID, object{}, nil)
		}
		for _, n := range others {
			until(t, "a one-time key of alice", 3*time.Hour, func() bool {
				name, _ := n.claim(alice.user, phone.id)
				return strings.HasPrefix(name, "signed_curve25519:K") // F is the fallback key
			})
		}
		time.Sleep(time.Hour)
		var a struct {
			Counts map[string]int `json:"device_one_time_keys_count"`
		}
		alice.call("GET", client+"/sync?timeout=0", nil, &a)
		if left := a.Counts["signed_curve25519"]; left < 50-2*16 || left > 50-len(others) {
			t.Errorf("of 50 one-time keys %d are left after %d contacts had theirs", left, len(others))
		}
	})
}
