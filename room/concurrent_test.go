// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// Eight senders at once, with readers beside them: each acknowledged event is in /sync and in the pages exactly once, and in
// the same order in both.
func TestConcurrentSendersAreEachShownOnce(t *testing.T) {
	a := play(t, 1)
	var users []matrix.UserID
	for i := range 8 {
		users = append(users, a.at(fmt.Sprint("s", i)))
	}
	room := a.create(Create{Preset: "public_chat"})
	for _, u := range users {
		a.member(room, u, u, matrix.MemberJoin)
	}
	_, at := a.sync(a.user, 0)
	const each = 60
	ids := make([][]matrix.EventID, len(users))
	var wg sync.WaitGroup
	var done atomic.Bool
	for i, u := range users {
		wg.Go(func() {
			for k := range each {
				txn := fmt.Sprint(k)
				send := func() matrix.EventID {
					id, err := a.Send(context.Background(), NewEvent{Room: room, Sender: u, Type: matrix.TypeMessage, Content: body(txn), Device: "D", Txn: txn})
					if err != nil {
						t.Error(err)
					}
					return id
				}
				var again matrix.EventID
				var two sync.WaitGroup
				two.Go(func() { again = send() }) // the client's retry, at the same time
				id := send()
				two.Wait()
				if id != again {
					t.Errorf("one transaction id, two events: %s %s", id, again)
				}
				ids[i] = append(ids[i], id)
			}
		})
	}
	var synced []matrix.EventID
	var readers sync.WaitGroup
	readers.Go(func() {
		since := at
		for end := false; !end; {
			end = done.Load()
			cs, upTo := a.syncWith(a.user, since, SyncOptions{TimelineLimit: 1000})
			for _, c := range cs {
				if c.Limited {
					t.Error("limited")
				}
				for _, e := range c.Timeline {
					synced = append(synced, e.ID())
				}
			}
			since = upTo
		}
	})
	readers.Go(func() {
		for !done.Load() {
			got := a.all(users[0], room, 7) // pages while others write: never an event twice
			n := len(got)
			slices.Sort(got)
			if len(slices.Compact(got)) != n {
				t.Error("an event twice")
			}
		}
	})
	wg.Wait()
	done.Store(true)
	readers.Wait()
	var sent []matrix.EventID
	for i := range ids {
		sent = append(sent, ids[i]...)
	}
	paged := a.all(a.user, room, 13)
	slices.Reverse(paged)
	paged = paged[len(paged)-len(users)*each:]
	if !slices.Equal(paged, synced) {
		t.Fatalf("/sync showed %d events, the pages %d, in another order or not the same", len(synced), len(paged))
	}
	slices.Sort(sent)
	slices.Sort(synced)
	if !slices.Equal(sent, synced) {
		t.Fatalf("%d acknowledged, %d shown", len(sent), len(synced))
	}
	a.judge(room)
}

// Rooms, receipts, typing, snapshots and ingests beside each other, for the race detector.
func TestEverythingAtOnce(t *testing.T) {
	a, b := play(t, 1), play(t, 2)
	room := a.create(Create{Preset: "public_chat", Invite: []matrix.UserID{b.user}})
	a.post(b)
	b.member(room, b.user, b.user, matrix.MemberJoin)
	b.post(a)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	run := func(n int, fn func(i int) error) {
		wg.Go(func() {
			for i := range n {
				if err := fn(i); err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
			}
		})
	}
	run(40, func(i int) error {
		_, err := a.Send(ctx, NewEvent{Room: room, Sender: a.user, Type: matrix.TypeName, StateKey: new(string), Content: object(map[string]any{"name": fmt.Sprint(i)})})
		return err
	})
	run(40, func(i int) error {
		u := a.at(fmt.Sprint("g", i))
		if _, err := a.SetMembership(ctx, room, u, u, matrix.MemberJoin, "", false); err != nil {
			return err
		}
		_, err := a.SetMembership(ctx, room, u, u, matrix.MemberLeave, "", false)
		return err
	})
	run(10, func(i int) error {
		_, err := a.Create(ctx, Create{Creator: a.user, Invite: []matrix.UserID{b.user}, Alias: fmt.Sprint("al", i)})
		return err
	})
	run(40, func(i int) error {
		return a.SetTyping(a.user, room, i%2 == 0, time.Second)
	})
	run(40, func(i int) error {
		p, err := a.Messages(a.user, room, 0, true, 1, nil)
		if err != nil {
			return err
		}
		return a.SetReceipt(room, Receipt{User: a.user, Event: p.Events[0].ID(), Type: readPublic})
	})
	run(20, func(i int) error {
		_, err := a.Sync(a.user, 0, a.stream.Current(), SyncOptions{})
		return err
	})
	wg.Go(func() { // the post
		for range 20 {
			for _, i := range a.mail(b) {
				if i.Kind != store.ItemRecord {
					a.hand(b, i)
				}
			}
		}
	})
	wg.Wait()
	for _, i := range a.mail(b) {
		a.hand(b, i)
	}
	heads, err := a.Heads(room)
	if err != nil {
		t.Fatal(err)
	}
	a.give(b, room, heads...)
	same(t, room, a, b)
	a.judge(room)
	b.judge(room)
}
