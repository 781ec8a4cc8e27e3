// SPDX-License-Identifier: Apache-2.0

package account

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tarn/matrix"
	"tarn/store"
)

func TestAccountDataWakesItsUserOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		alice, bob := n.addUser(t, "alice"), n.addUser(t, "bob")
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		since := n.stream.Current()
		woken := make(chan matrix.UserID, 2)
		for _, user := range []matrix.UserID{alice, bob} {
			go func() {
				if _, err := n.stream.Wait(ctx, string(user), since); err == nil {
					woken <- user
				}
			}()
		}
		synctest.Wait()
		if err := n.SetData(alice, "!r", "m.tag", json.RawMessage(` { "tags" : {} } `)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if len(woken) != 1 || <-woken != alice {
			t.Errorf("woken: %d", len(woken))
		}
		list, err := n.DataSince(alice, since, n.stream.Current())
		if err != nil || len(list) != 1 || list[0].Room != "!r" || list[0].Type != "m.tag" || string(list[0].Content) != `{"tags":{}}` {
			t.Errorf("%v, %v", list, err)
		}
		if list, err := n.DataSince(bob, 0, n.stream.Current()); err != nil || len(list) != 0 {
			t.Errorf("bob has %v, %v", list, err)
		}
		cancel()
		synctest.Wait()
	})
}

func TestBadAccountDataIsRefused(t *testing.T) {
	n := newNode(t)
	user := n.addUser(t, "alice")
	for _, bad := range []string{"", "null", "[]", `"x"`, "{", `{"a":1}{}`, "1"} {
		wantErr(t, fmt.Sprintf("content %q", bad), n.SetData(user, "", "t", json.RawMessage(bad)), ErrBadJSON)
		_, err := n.AddFilter(user, json.RawMessage(bad))
		wantErr(t, fmt.Sprintf("filter %q", bad), err, ErrBadJSON)
	}
	big := json.RawMessage(`{"a":"` + strings.Repeat("x", MaxData) + `"}`)
	wantErr(t, "large content", n.SetData(user, "", "t", big), ErrTooLarge)
	_, err := n.AddFilter(user, big)
	wantErr(t, "large filter", err, ErrTooLarge)
	wantErr(t, "long type", n.SetData(user, "", strings.Repeat("x", 256), json.RawMessage(`{}`)), ErrTooLarge)
	wantErr(t, "no type", n.SetData(user, "", "", json.RawMessage(`{}`)), ErrTooLarge)
	wantErr(t, "unknown user", n.SetData(n.userID("bob"), "", "t", json.RawMessage(`{}`)), ErrNotFound)
	_, err = n.Data(user, "", "t")
	wantErr(t, "nothing stored", err, ErrNotFound)
	_, err = n.Data(user, matrix.RoomID(strings.Repeat("x", 10_000)), "t")
	wantErr(t, "long room", err, ErrNotFound)
}

// TestDataSinceAgreesWithAModel: for any interval, each datum whose last change lies in it, once, in order, newest content.
func TestDataSinceAgreesWithAModel(t *testing.T) {
	n := newNode(t)
	user := n.addUser(t, "alice")
	type key struct {
		room matrix.RoomID
		typ  string
	}
	model := map[key]Data{}
	i := 0
	rapid.Check(t, func(rt *rapid.T) {
		for range rapid.IntRange(0, 3).Draw(rt, "changes") {
			k := key{rapid.SampledFrom([]matrix.RoomID{"", "!a", "!a\x00b"}).Draw(rt, "room"), rapid.SampledFrom([]string{"x", "y", "\x00"}).Draw(rt, "type")}
			i++
			content := fmt.Sprintf(`{"n":%d}`, i)
			if err := n.SetData(user, k.room, k.typ, json.RawMessage(content)); err != nil {
				rt.Fatal(err)
			}
			model[k] = Data{k.room, k.typ, json.RawMessage(content), n.stream.Current()}
		}
		since := store.Pos(rapid.Uint64Range(0, uint64(n.stream.Current())).Draw(rt, "since"))
		upTo := store.Pos(rapid.Uint64Range(0, uint64(n.stream.Current())).Draw(rt, "upTo"))
		got, err := n.DataSince(user, since, upTo)
		if err != nil {
			rt.Fatal(err)
		}
		want := 0
		for _, d := range model {
			if d.Pos > since && d.Pos <= upTo {
				want++
			}
		}
		last := since
		for _, d := range got {
			if m := model[key{d.Room, d.Type}]; d.Pos <= last || d.Pos > upTo || d.Pos != m.Pos || string(d.Content) != string(m.Content) {
				rt.Fatalf("(%d,%d]: got %+v, want %+v", since, upTo, d, m)
			}
			last = d.Pos
		}
		if len(got) != want {
			rt.Fatalf("(%d,%d]: %d data, want %d", since, upTo, len(got), want)
		}
	})
}

func TestFilterHasOneIDForEqualContent(t *testing.T) {
	n := newNode(t)
	user, other := n.addUser(t, "alice"), n.addUser(t, "bob")
	id, err := n.AddFilter(user, json.RawMessage(`{"room": {}}`))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := n.AddFilter(user, json.RawMessage(`{"room":{}}`)); err != nil || again != id {
		t.Errorf("%q then %q, %v", id, again, err)
	}
	if different, err := n.AddFilter(user, json.RawMessage(`{"room":{"x":1}}`)); err != nil || different == id {
		t.Errorf("%q, %v", different, err)
	}
	if f, err := n.Filter(user, id); err != nil || string(f) != `{"room":{}}` {
		t.Errorf("%s, %v", f, err)
	}
	_, err = n.Filter(other, id)
	wantErr(t, "another user's", err, ErrNotFound)
	_, err = n.Filter(user, "x")
	wantErr(t, "unknown", err, ErrNotFound)
	_, err = n.AddFilter(n.userID("nobody"), json.RawMessage(`{}`))
	wantErr(t, "unknown user", err, ErrNotFound)
}

func TestFiltersAreBounded(t *testing.T) {
	n := newNode(t)
	user := n.addUser(t, "alice")
	for i := range MaxFilters {
		if _, err := n.AddFilter(user, fmt.Appendf(nil, `{"n":%d}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := n.AddFilter(user, json.RawMessage(`{"one":"more"}`))
	wantErr(t, "one more", err, ErrTooLarge)
	if _, err := n.AddFilter(user, json.RawMessage(`{"n":7}`)); err != nil {
		t.Error(err)
	}
}
