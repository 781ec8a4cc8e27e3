// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// A contact could name a new thread in each receipt: rows without end, all of them in every first sync.
func TestReceiptsOfThreadsThatDoNotExistAreDropped(t *testing.T) {
	a, b, room := pair(t)
	root := a.say(room, "root of a thread")
	a.post(b)
	_, at := a.sync(a.user, 0)
	rs := []Receipt{{User: b.user, Event: root, Type: readPublic, Thread: string(root), Time: time.UnixMilli(1)}}
	for i := range 500 {
		rs = append(rs, Receipt{User: b.user, Event: root, Type: readPublic, Thread: fmt.Sprint("t", i), Time: time.UnixMilli(1)})
		rs = append(rs, Receipt{User: b.user, Event: root, Type: readPublic, Thread: fmt.Sprintf("$%043d", i), Time: time.UnixMilli(1)})
	}
	if err := a.IngestReceipts(b.s.Server, room, rs); err != nil {
		t.Fatal(err)
	}
	cs, _ := a.sync(a.user, at)
	if c := only(t, cs); len(c.Receipts) != 1 || c.Receipts[0].Thread != string(root) {
		t.Fatalf("%d receipts were taken, want the one of the thread that exists", len(c.Receipts))
	}
}

// A contact could invite to a room in each record: rooms without end, all of them in every first sync.
func TestInvitesOfOneServerAreBounded(t *testing.T) {
	a, b := play(t, 1), play(t, 2)
	taken := 0
	for range invitesFrom + 5 {
		room := a.create(Create{Invite: []matrix.UserID{b.user}})
		for _, i := range a.mail(b) {
			at, id := split(i.Data)
			if i.Kind != store.ItemInvite || at != room {
				continue
			}
			s, err := a.Snapshot(room, id)
			if err != nil {
				t.Fatal(err)
			}
			switch err := b.IngestSnapshot(context.Background(), a.s.Server, s); {
			case err == nil:
				taken++
			case !errors.Is(err, ErrForbidden):
				t.Fatal(err)
			}
		}
	}
	if taken != invitesFrom {
		t.Errorf("%d invites were taken, want %d", taken, invitesFrom)
	}
	// Another server's are none of its business.
	c := play(t, 3)
	room := c.create(Create{Invite: []matrix.UserID{b.user}})
	for _, i := range c.mail(b) {
		if at, id := split(i.Data); i.Kind == store.ItemInvite && at == room {
			s, err := c.Snapshot(room, id)
			if err != nil {
				t.Fatal(err)
			}
			b.take(c, s)
		}
	}
}
