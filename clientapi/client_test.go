// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// mautrixClient is a real client library, logged in by password over real HTTP.
func mautrixClient(t *testing.T, url, name string) *mautrix.Client {
	t.Helper()
	c, err := mautrix.NewClient(url, "", "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Login(t.Context(), &mautrix.ReqLogin{
		Type:             mautrix.AuthTypePassword,
		Identifier:       mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: name},
		Password:         password,
		StoreCredentials: true, StoreHomeserverURL: false,
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestConversationByARealClientLibrary: mautrix-go registers, logs in, makes a room, talks both ways and syncs, each
// message exactly once and in order.
func TestConversationByARealClientLibrary(t *testing.T) {
	n := newNode(t, func(c *Config) { c.OpenRegistration = true })
	server := httptest.NewServer(n.api)
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	fresh, err := mautrix.NewClient(server.URL, "", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice", "bob"} {
		if _, err := fresh.RegisterDummy(ctx, &mautrix.ReqRegister[any]{Username: name, Password: password}); err != nil {
			t.Fatal(err)
		}
	}
	alice, bob := mautrixClient(t, server.URL, "alice"), mautrixClient(t, server.URL, "bob")
	if w, err := bob.Whoami(ctx); err != nil || w.UserID != bob.UserID || w.DeviceID != bob.DeviceID {
		t.Fatal(w, err)
	}
	if v, err := alice.Versions(ctx); err != nil || !v.ContainsGreaterOrEqual(mautrix.SpecV111) {
		t.Fatal(v, err)
	}
	if caps, err := alice.Capabilities(ctx); err != nil || caps.RoomVersions.Default != "12" {
		t.Fatal(caps, err)
	}

	made, err := alice.CreateRoom(ctx, &mautrix.ReqCreateRoom{Name: "Tea", Preset: "private_chat", Invite: []id.UserID{bob.UserID}})
	if err != nil {
		t.Fatal(err)
	}
	room := made.RoomID

	// Bob joins by the invite that his /sync shows, and answers each of Alice's messages.
	const messages = 20
	var mu sync.Mutex
	heard := map[id.UserID][]string{}
	record := func(c *mautrix.Client, answer func(*event.Event)) (done chan error) {
		syncer := c.Syncer.(*mautrix.DefaultSyncer)
		syncer.OnEventType(event.StateMember, func(ctx context.Context, e *event.Event) {
			if e.GetStateKey() == c.UserID.String() && e.Content.AsMember().Membership == event.MembershipInvite {
				if _, err := c.JoinRoomByID(ctx, e.RoomID); err != nil {
					t.Error(err)
				}
			}
		})
		syncer.OnEventType(event.EventMessage, func(_ context.Context, e *event.Event) {
			mu.Lock()
			heard[c.UserID] = append(heard[c.UserID], e.Content.AsMessage().Body)
			mu.Unlock()
			answer(e)
		})
		done = make(chan error, 1)
		go func() { done <- c.SyncWithContext(ctx) }()
		return done
	}
	all := make(chan struct{})
	answered := 0
	aliceDone := record(alice, func(e *event.Event) {
		if e.Sender != bob.UserID {
			return
		}
		if answered++; answered == messages {
			close(all)
		}
	})
	bobDone := record(bob, func(e *event.Event) {
		if e.Sender == alice.UserID {
			if _, err := bob.SendText(ctx, room, "re: "+e.Content.AsMessage().Body); err != nil {
				t.Error(err)
			}
		}
	})
	await(t, ctx, func() bool {
		m, err := alice.JoinedMembers(ctx, room)
		return err == nil && len(m.Joined) == 2
	})
	var last id.EventID
	for i := range messages {
		sent, err := alice.SendText(ctx, room, fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		last = sent.EventID
	}
	select {
	case <-all:
	case <-ctx.Done():
		t.Fatalf("%d of %d answers came", answered, messages)
	}
	// Bob's own last answer comes to him by /sync too.
	await(t, ctx, func() bool { mu.Lock(); defer mu.Unlock(); return len(heard[bob.UserID]) == 2*messages })
	await(t, ctx, func() bool { mu.Lock(); defer mu.Unlock(); return len(heard[alice.UserID]) == 2*messages })

	var want, replies []string
	for i := range messages {
		want, replies = append(want, fmt.Sprint(i)), append(replies, fmt.Sprint("re: ", i))
	}
	mu.Lock()
	for who, got := range heard {
		isReply := func(s string) bool { return len(s) > 4 && s[:4] == "re: " }
		said := slices.DeleteFunc(slices.Clone(got), isReply)
		back := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return !isReply(s) })
		if !slices.Equal(said, want) || !slices.Equal(back, replies) {
			t.Errorf("%s heard %v", who, got)
		}
	}
	mu.Unlock()

	page, err := alice.Messages(ctx, room, "", "", mautrix.DirectionBackward, nil, 200)
	if err != nil {
		t.Fatal(err)
	}
	texts := 0
	for _, e := range page.Chunk {
		if e.Type.Type == "m.room.message" {
			texts++
		}
	}
	if texts != 2*messages {
		t.Errorf("/messages has %d texts, want %d", texts, 2*messages)
	}
	for _, err := range []error{
		bob.MarkRead(ctx, room, last),
		bob.SetDisplayName(ctx, "Bob"),
		bob.AddTag(ctx, room, event.RoomTagFavourite, 0.5),
		bob.SetAccountData(ctx, "org.x", map[string]int{"a": 1}),
		second(bob.UserTyping(ctx, room, true, time.Second)),
		second(bob.SendReaction(ctx, room, last, "👍")),
		second(alice.RedactEvent(ctx, room, last, mautrix.ReqRedact{Reason: "oops"})),
		second(alice.Context(ctx, room, last, nil, 5)),
		second(alice.GetEvent(ctx, room, last)),
		second(alice.State(ctx, room)),
		second(alice.Members(ctx, room)),
		second(alice.GetPushRules(ctx)),
		second(alice.KickUser(ctx, room, &mautrix.ReqKickUser{UserID: bob.UserID, Reason: "test"})),
		second(bob.ForgetRoom(ctx, room)),
		second(bob.Logout(ctx)),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := bob.Whoami(ctx); !errors.Is(err, mautrix.MUnknownToken) {
		t.Errorf("after logout: %v", err)
	}
	again := mautrixClient(t, server.URL, "alice")
	if _, err := again.GetKeyBackupLatestVersion(ctx); !errors.Is(err, mautrix.MNotFound) {
		t.Errorf("a key backup that is not there: %v", err)
	}
	if c, err := again.GetMediaConfig(ctx); err != nil || c.UploadSize != 1<<20 {
		t.Errorf("media config: %v %v", c, err)
	}
	file, err := again.UploadBytesWithName(ctx, []byte("a file"), "text/plain", "a.txt")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := again.DownloadBytes(ctx, file.ContentURI); err != nil || string(b) != "a file" {
		t.Errorf("a file: %q %v", b, err)
	}
	// In two steps, and the download comes before the upload.
	place, err := again.CreateMXC(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		b, err := alice.DownloadBytes(ctx, place.ContentURI)
		if err == nil && string(b) != "later" {
			err = fmt.Errorf("got %q", b)
		}
		got <- err
	}()
	if _, err := again.UploadMedia(ctx, mautrix.ReqUploadMedia{ContentBytes: []byte("later"), MXC: place.ContentURI}); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil {
		t.Errorf("a file that came later: %v", err)
	}
	cancel()
	<-aliceDone
	<-bobDone
}

func second[T any](_ T, err error) error { return err }

// await asks until f is true: for what only requests can tell.
func await(t *testing.T, ctx context.Context, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("did not come to pass")
		}
	}
}
