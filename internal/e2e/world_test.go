// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"
	"time"

	"tarn/account"
	"tarn/clientapi"
	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/mailbox/mailboxtest"
	"tarn/matrix"
	"tarn/media"
	"tarn/replicate"
	"tarn/room"
	"tarn/store"
)

// node is a homeserver with one user, in memory.
type node struct {
	t       *testing.T
	name    string
	kv      store.KV
	stream  *store.Stream
	engine  *replicate.Engine
	rooms   *room.Rooms
	api     http.Handler
	user    matrix.UserID
	token   string
	stop    func()
	rebuild func()
	limits  media.Options // counts from the next rebuild on, so does
	older   room.Older
}

// profile is quick enough for a test and slow enough to look between two ticks.
func profile() replicate.Profile { return replicate.CustomProfile(10*time.Second, 0.3) }

// newNode makes a node whose contacts leave boxes in box.
func newNode(t *testing.T, name string, seed byte, box *mailboxtest.Mailbox) *node {
	t.Helper()
	return newNodeAt(t, name, seed, func(c *replicate.Config) {
		c.Stores = []mailbox.Address{box.Address()}
		c.Dial = func(a mailbox.Address) replicate.Mailbox { return mailbox.NewClient(a, box.Dialer()) }
	})
}

// newNodeAt makes a node; at says where its mailboxes and couriers are.
func newNodeAt(t *testing.T, name string, seed byte, at func(*replicate.Config)) *node {
	t.Helper()
	n := &node{t: t, name: name, kv: store.OpenMemory(), older: room.Older{Ahead: 200, Most: 10_000}}
	files := t.TempDir()
	onion := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, 32))
	signing := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed + 100}, 32))
	server := onionid.FromKey(onion.Public().(ed25519.PublicKey))
	cert := onionid.Certify(onion, signing.Public().(ed25519.PublicKey))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	n.rebuild = func() {
		var err error
		n.stream, err = store.OpenStream(n.kv)
		must(err)
		accounts, err := account.Open(n.kv, n.stream, account.Options{Server: server, NoRateLimit: true})
		must(err)
		rooms, err := room.Open(n.kv, n.stream, room.Options{
			Signer: matrix.Signer{Server: server, KeyID: cert.KeyID, Key: signing}, Certificate: cert, Older: n.older,
			EncodeReceipts: func(id matrix.RoomID, rs []room.Receipt) []byte {
				record, err := replicate.EncodeReceipts(id, rs)
				if err != nil {
					return nil
				}
				return record[1:]
			},
		})
		must(err)
		n.rooms = rooms
		kept, err := media.Open(files, n.kv, n.limits)
		must(err)
		api := clientapi.New(clientapi.Config{Rooms: rooms, Accounts: accounts, Stream: n.stream, Server: server, Media: kept,
			Reaches: func(s matrix.ServerName) bool { return n.engine.Reaches(s) }, NoRateLimit: true, Log: slog.New(slog.DiscardHandler)})
		n.api = api
		cfg := replicate.Config{
			KV: n.kv, Rooms: rooms, Accounts: accounts, Files: kept, Signs: api, Profile: profile(), Identity: replicate.Identity{Key: onion, Name: server, Certificate: cert},
			Seed: [32]byte{seed}, Log: slog.New(slog.DiscardHandler), Introductions: replicate.NeededIntroductions,
		}
		at(&cfg)
		n.engine, err = replicate.New(cfg)
		must(err)
		if n.user == "" {
			n.user, err = accounts.Create(name, "correct horse battery")
			must(err)
		}
	}
	n.rebuild()
	n.start()
	t.Cleanup(func() { n.stop(); n.kv.Close() })
	var login struct {
		AccessToken string `json:"access_token"`
	}
	n.call("POST", "/_matrix/client/v3/login", map[string]any{
		"type": "m.login.password", "identifier": map[string]any{"type": "m.id.user", "user": name}, "password": "correct horse battery",
	}, &login)
	n.token = login.AccessToken
	return n
}

// start runs the engine; stop ends it and everything that was in memory.
func (n *node) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	engine := n.engine
	go func() { done <- engine.Run(ctx) }()
	n.stop = func() {
		cancel()
		if err := <-done; err != nil && ctx.Err() == nil {
			n.t.Errorf("%s: %v", n.name, err)
		}
		n.stop = func() {}
	}
}

// call makes a client's request; any status but 200 ends the test.
func (n *node) call(method, path string, body, result any) {
	n.t.Helper()
	if status, text := n.try(n.t.Context(), method, path, body, result); status != http.StatusOK {
		n.t.Fatalf("%s: %s %s: %d %s", n.name, method, path, status, text)
	}
}

func (n *node) try(ctx context.Context, method, path string, body, result any) (int, string) {
	n.t.Helper()
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			n.t.Fatal(err)
		}
		r = bytes.NewReader(b)
	}
	req := httptest.NewRequestWithContext(ctx, method, path, r)
	if n.token != "" {
		req.Header.Set("Authorization", "Bearer "+n.token)
	}
	w := httptest.NewRecorder()
	n.api.ServeHTTP(w, req)
	if w.Code == http.StatusOK && result != nil {
		if err := json.Unmarshal(w.Body.Bytes(), result); err != nil {
			n.t.Fatal(err)
		}
	}
	return w.Code, w.Body.String()
}

type syncAnswer struct {
	NextBatch string `json:"next_batch"`
	ToDevice  struct {
		Events []struct {
			Type, Sender string
			Content      map[string]any
		}
	} `json:"to_device"`
	DeviceLists struct{ Changed, Left []matrix.UserID } `json:"device_lists"`
	Unused      []string                                `json:"device_unused_fallback_key_types"`
	OneTime     map[string]int                          `json:"device_one_time_keys_count"`
	Rooms       struct {
		Invite map[string]json.RawMessage
		Join   map[string]struct {
			Ephemeral struct {
				Events []struct {
					Type    string
					Content json.RawMessage
				}
			}
			Timeline struct {
				Events []struct {
					Type    string
					Sender  string
					EventID string `json:"event_id"`
					Content map[string]any
				}
			}
		}
	}
}

// await syncs from since until ok is content with an answer, for at most limit of (made-up) time.
func (n *node) await(since, what string, limit time.Duration, ok func(syncAnswer) bool) string {
	n.t.Helper()
	end := time.Now().Add(limit)
	for time.Now().Before(end) {
		var a syncAnswer
		path := "/_matrix/client/v3/sync?timeout=30000&filter=" + url.QueryEscape(`{"room":{"timeline":{"limit":100}}}`)
		if since != "" {
			path += "&since=" + since
		}
		n.call("GET", path, nil, &a)
		since = a.NextBatch
		if ok(a) {
			return since
		}
	}
	n.t.Fatalf("%s: no %s within %v", n.name, what, limit)
	return ""
}

// texts are the message bodies of a room in a sync answer.
func (a syncAnswer) texts(room string) (out []string) {
	for _, e := range a.Rooms.Join[room].Timeline.Events {
		if e.Type == "m.room.message" {
			out = append(out, e.Content["body"].(string))
		}
	}
	return out
}

// befriend makes two nodes contacts, as their owners would.
func befriend(t *testing.T, a, b *node) {
	t.Helper()
	link, err := a.engine.Invite(t.Context(), time.Hour*24)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.engine.Accept(t.Context(), link); err != nil {
		t.Fatal(err)
	}
	active := func(n, peer *node) bool {
		cs, err := n.engine.Contacts()
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(cs, func(c replicate.ContactStatus) bool {
			return string(c.Name) == peer.user.Homeserver() && c.State == "active"
		})
	}
	for end := time.Now().Add(time.Hour); !active(a, b) || !active(b, a); time.Sleep(time.Second) {
		if time.Now().After(end) {
			ca, _ := a.engine.Contacts()
			cb, _ := b.engine.Contacts()
			t.Fatalf("not contacts after an hour: %+v %+v", ca, cb)
		}
	}
}

// pending is what waits for a peer's acknowledgement in the outbox.
func (n *node) pending(peer *node) (items []store.Item) {
	n.t.Helper()
	n.view(func(r store.Reader) (err error) {
		items, err = store.Pending(r, peer.user.Homeserver(), 0, 1000)
		return err
	})
	return items
}

// scan reads a peer's rows of one of replicate's tables (rows.go there).
func (n *node) scan(table byte, peer *node, fn func(value []byte)) {
	n.t.Helper()
	n.view(func(r store.Reader) error {
		return r.Scan(store.Key(table, peer.user.Homeserver()), nil, func(_, v []byte) (bool, error) { fn(v); return true, nil })
	})
}

func (n *node) view(fn func(store.Reader) error) {
	n.t.Helper()
	if err := n.kv.View(fn); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) rows(table byte, peer *node) (count int) {
	n.t.Helper()
	n.scan(table, peer, func([]byte) { count++ })
	return count
}

// waiting is a sealed box that the peer has not acknowledged, as it is on the disk.
type waiting struct {
	id  mailbox.BoxID
	box [mailbox.BoxSize]byte
}

// boxes are those of them that hold more than an acknowledgement. A row of the one table is: version 1, id 16, place 32, two times, and
// whether it does; of the other, under the same keys: the sealed bytes, the plaintext.
func (n *node) boxes(peer *node) (out []waiting) {
	n.t.Helper()
	var all []waiting
	var more []bool
	n.scan(store.TableContact+0x3, peer, func(v []byte) {
		const at = 1 + mailbox.IDSize + 32
		_, created := binary.Uvarint(v[at:])
		_, sealed := binary.Uvarint(v[at+created:])
		all, more = append(all, waiting{id: mailbox.BoxID(v[1:])}), append(more, v[at+created+sealed] == 1)
	})
	i := 0
	n.scan(store.TableContact+0x4, peer, func(v []byte) {
		if all[i].box = [mailbox.BoxSize]byte(v); more[i] {
			out = append(out, all[i])
		}
		i++
	})
	return out
}
