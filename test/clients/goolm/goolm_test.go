// SPDX-License-Identifier: Apache-2.0

//go:build goolm && !goexperiment.jsonv2

// Package goolm drives a real node with mautrix-go and its olm in pure Go, as gomuks and bridges use it: scripts/clients runs it.
// Built with GOEXPERIMENT=jsonv2, as the rest of this tree, the library (v0.30.0) signs its one-time keys wrongly: OneTimeKey's
// MarshalJSON is then called where it was not before, and the bare key is signed. So this is built without, and imports nothing of ours.
package goolm

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/crypto/attachment"
	"maunium.net/go/mautrix/crypto/backup"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"
)

const password = "correct horse battery"

// What the clients asked for, and what of it they were told is not there, or broke.
var (
	mu      sync.Mutex
	asked   = map[string]int{}
	refused []string
)

// tracer notes what is asked and answered.
type tracer struct{}

func (tracer) RoundTrip(q *http.Request) (*http.Response, error) {
	r, err := http.DefaultTransport.RoundTrip(q)
	if err != nil {
		return r, err
	}
	var code struct {
		Code string `json:"errcode"`
	}
	if r.StatusCode >= 400 {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(bytes.NewReader(raw))
		if json.Unmarshal(raw, &code) != nil {
			code.Code = "no JSON"
		}
	}
	line := fmt.Sprintf("%s %s %d %s", q.Method, ids.ReplaceAllString(q.URL.Path, "/{}"), r.StatusCode, code.Code)
	mu.Lock()
	defer mu.Unlock()
	asked[line]++
	if code.Code == "M_UNRECOGNIZED" || code.Code == "no JSON" || r.StatusCode == 405 || r.StatusCode >= 500 {
		refused = append(refused, line)
	}
	return r, nil
}

var ids = regexp.MustCompile(`/([!@$#][^/]*|[\w-]{22,}|[^/]*\.onion|m[0-9_]+|mautrix-go_[^/]*)`)

// startNode makes a node without Tor in a directory of the test's and runs it. NODE names the program.
func startNode(t *testing.T) (url string) {
	t.Helper()
	program := os.Getenv("NODE")
	if program == "" {
		t.Skip("NODE names the program that is tested: run scripts/clients")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	config := filepath.Join(t.TempDir(), "node.toml")
	if out, err := exec.Command(program, "init", "--config", config, "--user", "-", "--tor", "off", "--open-registration", "--no-rate-limit",
		"--listen", address).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var log bytes.Buffer
	c := exec.Command(program, "run", "--config", config)
	c.Stdout, c.Stderr = &log, &log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Signal(os.Interrupt)
		if err := c.Wait(); err != nil || t.Failed() {
			t.Errorf("the node: %v\n%s", err, log.String())
		}
	})
	url = "http://" + address
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if r, err := http.Get(url + "/_matrix/client/versions"); err == nil {
			r.Body.Close()
			return url
		}
		if time.Now().After(end) {
			t.Fatal("the node does not answer")
		}
	}
}

// person registers a user.
func person(t *testing.T, url, name string) {
	t.Helper()
	c := must[*mautrix.Client](t)(mautrix.NewClient(url, "", ""))
	c.Client = &http.Client{Transport: tracer{}}
	must[*mautrix.RespRegister](t)(c.RegisterDummy(t.Context(), &mautrix.ReqRegister[any]{Username: name, Password: password}))
}

func login(t *testing.T, url, name string) *mautrix.Client {
	t.Helper()
	c := must[*mautrix.Client](t)(mautrix.NewClient(url, "", ""))
	c.Client = &http.Client{Transport: tracer{}}
	must[*mautrix.RespLogin](t)(c.Login(t.Context(), &mautrix.ReqLogin{Type: mautrix.AuthTypePassword, StoreCredentials: true, Password: password,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: name}}))
	return c
}

// olmDevice is mautrix-go's client with its pure Go olm machine, as bridges and bots put them together, but synced by hand.
type olmDevice struct {
	t     *testing.T
	c     *mautrix.Client
	m     *crypto.OlmMachine
	sync  *mautrix.DefaultSyncer
	since string
	got   []*event.Event // decrypted, in order
	other []*event.Event // what came in the clear
	fails []error
}

func newOlmDevice(t *testing.T, url, name string) *olmDevice {
	t.Helper()
	d := &olmDevice{t: t, c: login(t, url, name), sync: mautrix.NewDefaultSyncer()}
	d.c.Syncer, d.c.StateStore = d.sync, mautrix.NewMemoryStateStore()
	d.m = crypto.NewOlmMachine(d.c, nil, crypto.NewMemoryStore(nil), d.c.StateStore.(crypto.StateStore))
	d.m.ShareKeysMinTrust = id.TrustStateUnset
	if err := d.m.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.m.ShareKeys(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	d.sync.OnSync(d.m.ProcessSyncResponse)
	d.sync.OnEvent(d.c.StateStoreSyncHandler)
	d.sync.OnEventType(event.StateMember, d.m.HandleMemberEvent)
	d.sync.OnEventType(event.EventEncrypted, func(ctx context.Context, e *event.Event) {
		clear, err := d.m.DecryptMegolmEvent(ctx, e)
		if err != nil {
			d.fails = append(d.fails, err)
			return
		}
		d.got = append(d.got, clear)
	})
	d.sync.OnEvent(func(_ context.Context, e *event.Event) { d.other = append(d.other, e) })
	return d
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// once syncs until there is nothing new.
func (d *olmDevice) once() {
	d.t.Helper()
	for {
		r := must[*mautrix.RespSync](d.t)(d.c.SyncRequest(d.t.Context(), 0, d.since, "", false, event.PresenceOnline))
		if err := d.sync.ProcessResponse(d.t.Context(), r, d.since); err != nil {
			d.t.Fatal(err)
		}
		same := r.NextBatch == d.since
		if d.since = r.NextBatch; same {
			return
		}
	}
}

// write sends an encrypted message.
func (d *olmDevice) write(room id.RoomID, content any) id.EventID {
	d.t.Helper()
	ctx := d.t.Context()
	sealed, err := d.m.EncryptMegolmEvent(ctx, room, event.EventMessage, content)
	if err != nil {
		users := must[[]id.UserID](d.t)(d.c.StateStore.GetRoomJoinedOrInvitedMembers(ctx, room))
		if err := d.m.ShareGroupSession(ctx, room, users); err != nil {
			d.t.Fatal(err)
		}
		sealed = must[*event.EncryptedEventContent](d.t)(d.m.EncryptMegolmEvent(ctx, room, event.EventMessage, content))
	}
	return must[*mautrix.RespSendEvent](d.t)(d.c.SendMessageEvent(ctx, room, event.EventEncrypted, sealed)).EventID
}

func (d *olmDevice) texts() (out []string) {
	for _, e := range d.got {
		if m := e.Content.AsMessage(); m.MsgType == event.MsgText && m.RelatesTo.GetReplaceID() == "" {
			out = append(out, m.Body)
		}
	}
	return out
}

// backUp makes a key backup and puts all of the room's sessions in it.
func (d *olmDevice) backUp(room id.RoomID, key *backup.MegolmBackupKey) {
	d.t.Helper()
	ctx := d.t.Context()
	data := backup.MegolmAuthData{PublicKey: id.Ed25519(base64.RawStdEncoding.EncodeToString(key.PublicKey().Bytes()))}
	made := must[*mautrix.RespRoomKeysVersionCreate](d.t)(d.c.CreateKeyBackupVersion(ctx,
		&mautrix.ReqRoomKeysVersionCreate[backup.MegolmAuthData]{Algorithm: id.KeyBackupAlgorithmMegolmBackupV1, AuthData: data}))
	sessions := map[id.SessionID]mautrix.ReqKeyBackupData{}
	for _, s := range must[[]*crypto.InboundGroupSession](d.t)(d.m.CryptoStore.GetGroupSessionsForRoom(ctx, room).AsList()) {
		first := s.Internal.FirstKnownIndex()
		sealed := must[*backup.EncryptedSessionData[backup.MegolmSessionData]](d.t)(backup.EncryptSessionData(key, backup.MegolmSessionData{
			Algorithm: id.AlgorithmMegolmV1, SenderKey: s.SenderKey, SenderClaimedKeys: backup.SenderClaimedKeys{Ed25519: s.SigningKey},
			SessionKey: string(must[[]byte](d.t)(s.Internal.Export(first))), ForwardingKeyChain: []string{},
		}))
		sessions[s.ID()] = mautrix.ReqKeyBackupData{FirstMessageIndex: int(first), SessionData: must[[]byte](d.t)(json.Marshal(sealed))}
	}
	put := must[*mautrix.RespRoomKeysUpdate](d.t)(d.c.PutKeysInBackup(ctx, made.Version,
		&mautrix.ReqKeyBackup{Rooms: map[id.RoomID]mautrix.ReqRoomKeyBackup{room: {Sessions: sessions}}}))
	if len(sessions) == 0 || put.Count != len(sessions) {
		d.t.Fatalf("%d of %d sessions are in the backup", put.Count, len(sessions))
	}
}

// TestEncryptedConversationByGoolm is the list for mautrix-go: two users, cross-signing, an encrypted room, twenty messages
// each way, edits, reactions, redaction, receipts, typing, an encrypted file, and a second device that has the sessions from the key backup.
func TestEncryptedConversationByGoolm(t *testing.T) {
	url := startNode(t)
	person(t, url, "alice")
	person(t, url, "bob")
	ctx := t.Context()
	alice, bob := newOlmDevice(t, url, "alice"), newOlmDevice(t, url, "bob")

	recovery, keys, err := alice.m.GenerateAndUploadCrossSigningKeysWithPassword(ctx, password, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.m.SignOwnDevice(ctx, alice.m.OwnIdentity()); err != nil {
		t.Fatal(err)
	}
	if err := alice.m.SignOwnMasterKey(ctx); err != nil {
		t.Fatal(err)
	}

	room := must[*mautrix.RespCreateRoom](t)(alice.c.CreateRoom(ctx, &mautrix.ReqCreateRoom{
		Preset: "private_chat", IsDirect: true, Invite: []id.UserID{bob.c.UserID},
		InitialState: []*event.Event{{Type: event.StateEncryption, Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}}}},
	})).RoomID
	bob.once()
	must[*mautrix.RespJoinRoom](t)(bob.c.JoinRoomByID(ctx, room))
	alice.once()
	bob.once()

	var want []string
	var ids []id.EventID
	for i := range 20 {
		for _, d := range []*olmDevice{alice, bob} {
			want = append(want, fmt.Sprintf("%s %d", d.c.UserID, i))
			ids = append(ids, d.write(room, &event.MessageEventContent{MsgType: event.MsgText, Body: want[len(want)-1]}))
		}
		alice.once()
		bob.once()
	}
	for _, d := range []*olmDevice{alice, bob} {
		if !slices.Equal(d.texts(), want) || len(d.fails) > 0 {
			t.Fatalf("%s read %q, failed %v", d.c.UserID, d.texts(), d.fails)
		}
	}
	if status, err := bob.m.GetOrFetchDevice(ctx, alice.c.UserID, alice.c.DeviceID); err != nil || status.SigningKey != alice.m.OwnIdentity().SigningKey {
		t.Fatalf("alice's device as bob has it: %v %v", status, err)
	}
	if public := must[*crypto.CrossSigningPublicKeysCache](t)(bob.m.GetCrossSigningPublicKeys(ctx, alice.c.UserID)); public == nil || public.MasterKey != keys.MasterKey.PublicKey() {
		t.Fatal("bob has not alice's master key")
	}

	edit := &event.MessageEventContent{MsgType: event.MsgText, Body: "better"}
	edit.SetEdit(ids[0])
	alice.write(room, edit)
	must[*mautrix.RespSendEvent](t)(bob.c.SendReaction(ctx, room, ids[0], "👍"))
	must[*mautrix.RespSendEvent](t)(alice.c.RedactEvent(ctx, room, ids[2], mautrix.ReqRedact{Reason: "oops"}))
	if err := bob.c.MarkRead(ctx, room, ids[len(ids)-1]); err != nil {
		t.Fatal(err)
	}
	must[*mautrix.RespTyping](t)(bob.c.UserTyping(ctx, room, true, time.Minute))
	alice.other = nil
	alice.once()
	bob.once()
	for _, typ := range []event.Type{event.EventReaction, event.EventRedaction, event.EphemeralEventReceipt, event.EphemeralEventTyping} {
		if !slices.ContainsFunc(alice.other, func(e *event.Event) bool { return e.Type.Type == typ.Type }) {
			t.Errorf("alice did not hear of %s", typ.Type)
		}
	}
	if last := bob.got[len(bob.got)-1].Content.AsMessage(); last.RelatesTo.GetReplaceID() != ids[0] || last.NewContent.Body != "better" {
		t.Errorf("the edit: %+v", last)
	}

	file := make([]byte, 200_000)
	rand.Read(file)
	e := attachment.NewEncryptedFile()
	up := must[*mautrix.RespMediaUpload](t)(alice.c.UploadBytes(ctx, e.Encrypt(file), "application/octet-stream"))
	alice.write(room, &event.MessageEventContent{MsgType: event.MsgFile, Body: "secret.bin",
		File: &event.EncryptedFileInfo{EncryptedFile: *e, URL: up.ContentURI.CUString()}})
	bob.once()
	info := bob.got[len(bob.got)-1].Content.AsMessage().File
	raw := must[[]byte](t)(bob.c.DownloadBytes(ctx, must[id.ContentURI](t)(info.URL.Parse())))
	if plain, err := info.Decrypt(raw); err != nil || !bytes.Equal(plain, file) {
		t.Errorf("the file came back as %d bytes: %v", len(plain), err)
	}

	backupKey := must[*backup.MegolmBackupKey](t)(backup.NewMegolmBackupKey())
	alice.backUp(room, backupKey)
	second := newOlmDevice(t, url, "alice")
	if err := second.m.VerifyWithRecoveryKey(ctx, recovery); err != nil {
		t.Fatal(err)
	}
	second.once()
	if len(second.fails) == 0 {
		t.Error("the new device could read what it had no keys for")
	}
	if v := must[id.KeyBackupVersion](t)(second.m.DownloadAndStoreLatestKeyBackup(ctx, backupKey)); v == "" {
		t.Fatal("the second device finds no backup")
	}
	page := must[*mautrix.RespMessages](t)(second.c.Messages(ctx, room, "", "", mautrix.DirectionForward, nil, 1000))
	for _, e := range page.Chunk {
		if e.Type != event.EventEncrypted || e.Unsigned.RedactedBecause != nil {
			continue
		}
		if err := e.Content.ParseRaw(e.Type); err != nil {
			t.Fatal(err)
		}
		second.got = append(second.got, must[*event.Event](t)(second.m.DecryptMegolmEvent(ctx, e)))
	}
	if left := append(slices.Clone(want[:2]), want[3:]...); !slices.Equal(second.texts()[len(second.texts())-len(left):], left) {
		t.Errorf("the second device read %q", second.texts())
	}
	if len(refused) > 0 {
		t.Errorf("missing or broken: %q", refused)
	}
	for _, line := range slices.Sorted(maps.Keys(asked)) {
		t.Logf("%5d  %s", asked[line], line)
	}
}
