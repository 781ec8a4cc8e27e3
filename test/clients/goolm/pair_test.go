// SPDX-License-Identifier: Apache-2.0

//go:build goolm && !goexperiment.jsonv2

package goolm

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

// startPair runs two nodes that are contacts. PAIR names the program: the tests of internal/e2e.
func startPair(t *testing.T) (alice, bob string) {
	t.Helper()
	program := os.Getenv("PAIR")
	if program == "" {
		t.Skip("PAIR names the program with two nodes: run scripts/clients")
	}
	c := exec.Command(program, "-test.run", "^TestServePair$", "-test.timeout", "10m")
	c.Env = append(os.Environ(), "TARN_PAIR=1")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = os.Stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) == 3 && f[0] == "PAIR" {
			alice, bob = f[1], f[2]
			break
		}
	}
	t.Cleanup(func() {
		in.Close()
		for lines.Scan() {
			t.Log(lines.Text())
		}
		if err := c.Wait(); err != nil {
			t.Errorf("the two nodes: %v", err)
		}
	})
	if bob == "" {
		t.Fatal("the two nodes do not start")
	}
	return alice, bob
}

// eventually syncs until ok.
func (d *olmDevice) eventually(what string, ok func() bool) {
	d.t.Helper()
	start := time.Now()
	for d.once(); !ok(); d.once() {
		if time.Since(start) > time.Minute {
			d.t.Fatalf("%s: no %s; it failed to read %v", d.c.UserID, what, d.fails)
		}
		time.Sleep(50 * time.Millisecond)
	}
	d.t.Logf("%s: %s after %v", d.c.UserID.Localpart(), what, time.Since(start).Round(time.Millisecond))
}

// TestEncryptedRoomBetweenTwoNodes: an encrypted room is made on one node, a user of another is invited and joins, and each reads
// what the other writes: the device lists, one-time keys and room keys cross through boxes alone.
func TestEncryptedRoomBetweenTwoNodes(t *testing.T) {
	urlA, urlB := startPair(t)
	ctx := t.Context()
	alice, bob := newOlmDevice(t, urlA, "alice"), newOlmDevice(t, urlB, "bob")
	_, keys, err := alice.m.GenerateAndUploadCrossSigningKeysWithPassword(ctx, password, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.m.SignOwnDevice(ctx, alice.m.OwnIdentity()); err != nil {
		t.Fatal(err)
	}
	room := must[*mautrix.RespCreateRoom](t)(alice.c.CreateRoom(ctx, &mautrix.ReqCreateRoom{
		Preset: "private_chat", IsDirect: true, Invite: []id.UserID{bob.c.UserID},
		InitialState: []*event.Event{{Type: event.StateEncryption, Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}}}},
	})).RoomID
	member := func(d *olmDevice, is event.Membership) func() bool {
		return func() bool {
			return slices.ContainsFunc(d.other, func(e *event.Event) bool {
				return e.Type == event.StateMember && e.GetStateKey() == bob.c.UserID.String() && e.Content.AsMember().Membership == is
			})
		}
	}
	bob.eventually("invite", func() bool {
		r := must[*mautrix.RespSync](t)(bob.c.SyncRequest(ctx, 0, "", "", false, event.PresenceOnline))
		return r.Rooms.Invite[room] != nil
	})
	must[*mautrix.RespJoinRoom](t)(bob.c.JoinRoomByID(ctx, room))
	alice.eventually("bob's join", member(alice, event.MembershipJoin))
	bob.eventually("the room", member(bob, event.MembershipJoin))

	var want []string
	for i := range 10 {
		for _, x := range []struct{ from, to *olmDevice }{{alice, bob}, {bob, alice}} {
			want = append(want, fmt.Sprintf("%s %d", x.from.c.UserID, i))
			x.from.write(room, &event.MessageEventContent{MsgType: event.MsgText, Body: want[len(want)-1]})
			x.from.eventually("its own message", func() bool { return slices.Contains(x.from.texts(), want[len(want)-1]) })
			x.to.eventually("message", func() bool { return slices.Contains(x.to.texts(), want[len(want)-1]) })
		}
	}
	for _, d := range []*olmDevice{alice, bob} {
		if !slices.Equal(d.texts(), want) || len(d.fails) > 0 {
			t.Fatalf("%s read %q, failed %v", d.c.UserID, d.texts(), d.fails)
		}
	}
	if public := must[*crypto.CrossSigningPublicKeysCache](t)(bob.m.GetCrossSigningPublicKeys(ctx, alice.c.UserID)); public == nil || public.MasterKey != keys.MasterKey.PublicKey() {
		t.Error("bob has not alice's master key")
	}
	if status, err := bob.m.GetOrFetchDevice(ctx, alice.c.UserID, alice.c.DeviceID); err != nil || status.SigningKey != alice.m.OwnIdentity().SigningKey {
		t.Errorf("alice's device as bob has it: %v %v", status, err)
	}
}
