// SPDX-License-Identifier: Apache-2.0

package account

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tarn/matrix"
	"tarn/store"
)

// TestThreadsAgreeWithAModel: whatever is subscribed, ended and asked for, each thread is in the list once, with its last change, and a page
// goes on where the one before it ended.
func TestThreadsAgreeWithAModel(t *testing.T) {
	n := newNode(t)
	alice, bob := n.addUser(t, "alice"), n.addUser(t, "bob")
	rooms := 0
	rapid.Check(t, func(rt *rapid.T) {
		rooms++
		room, begin := matrix.RoomID(fmt.Sprint("!r", rooms)), n.stream.Current()
		model := map[matrix.EventID]Thread{}
		for range rapid.IntRange(1, 30).Draw(rt, "changes") {
			root := matrix.EventID(rapid.SampledFrom([]string{"$a", "$b", "$c", "$d", "$e"}).Draw(rt, "root"))
			had, found := model[root]
			before := n.stream.Current()
			var err error
			switch what := rapid.SampledFrom([]string{"by hand", "old cause", "new cause", "end"}).Draw(rt, "what"); what {
			case "by hand":
				err = n.Subscribe(alice, room, root, 0)
				had.Subscribed, had.Automatic = true, false
			case "old cause", "new cause":
				cause := store.Pos(1)
				if what == "new cause" {
					cause = before + 1
				}
				err = n.Subscribe(alice, room, root, cause)
				if found && !had.Subscribed && cause == 1 {
					if !errors.Is(err, ErrUnsubscribed) {
						rt.Fatal("a cause of before the end subscribes", err)
					}
					continue
				}
				if !had.Subscribed {
					had.Subscribed, had.Automatic = true, true
				}
			default:
				err = n.Unsubscribe(alice, room, root)
				had.Subscribed, had.Automatic = false, false
			}
			if err != nil {
				rt.Fatal(err)
			}
			now, err := n.Thread(alice, room, root)
			if errors.Is(err, ErrNotFound) && !found && !had.Subscribed {
				continue
			}
			if err != nil || now.Subscribed != had.Subscribed || now.Automatic != had.Automatic {
				rt.Fatalf("%s is %+v, %v; want %+v", root, now, err, had)
			}
			if found && (now.Pos > had.Pos) != (now.Subscribed != model[root].Subscribed || now.Automatic != model[root].Automatic) {
				rt.Fatalf("%+v was %+v", now, model[root])
			}
			model[root] = now
		}
		var want []Thread
		for _, x := range model {
			want = append(want, x)
		}
		slices.SortFunc(want, func(a, b Thread) int { return int(a.Pos) - int(b.Pos) })
		limit, upTo := rapid.IntRange(1, 4).Draw(rt, "limit"), n.stream.Current()
		var got []Thread
		for {
			page, more, err := n.Threads(alice, begin, upTo, limit)
			if err != nil || more && len(page) != limit {
				rt.Fatal(page, more, err)
			}
			got = append(page, got...)
			if !more {
				break
			}
			upTo = page[0].Pos - 1
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			rt.Fatalf("%v\nwant %v", got, want)
		}
		if list, _, err := n.Threads(bob, 0, n.stream.Current(), 10); err != nil || len(list) != 0 {
			rt.Fatal(list, err)
		}
	})
}

// TestThreadsAreBounded: a client cannot fill the disk with them, and who is gone leaves none.
func TestThreadsAreBounded(t *testing.T) {
	n := newNode(t)
	alice := n.addUser(t, "alice")
	if has, err := n.HasThreads(alice); has || err != nil {
		t.Error(has, err)
	}
	wantErr(t, "the first", n.Subscribe(alice, "!r", "$first", 0), nil)
	if err := n.kv.Update(func(txn store.Txn) error { // as if there had been others
		for i := range MaxThreads - 1 {
			if err := txn.Set(store.Key(tableThread, threadByAge, "alice", store.Pos(1<<40+i)), nil); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "one more", n.Subscribe(alice, "!r", "$more", 0), ErrTooLarge)
	wantErr(t, "one that is there", n.Unsubscribe(alice, "!r", "$first"), nil)
	wantErr(t, "deactivate", n.Deactivate(alice), nil)
	if has, err := n.HasThreads(alice); has || err != nil {
		t.Error(has, err)
	}
	if _, err := n.Thread(alice, "!r", "$first"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
