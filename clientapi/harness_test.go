// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json/v2"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"tarn/account"
	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/media"
	"tarn/room"
	"tarn/store"
)

const password = "correct horse"

// node is a whole node without a network: real accounts and rooms on the memory store.
type node struct {
	t        testing.TB
	server   matrix.ServerName
	kv       store.KV
	stream   *store.Stream
	accounts *account.Accounts
	rooms    *room.Rooms
	api      *API
	log      *bytes.Buffer
}

func newNode(t testing.TB, change ...func(*Config)) *node {
	t.Helper()
	n := openNode(t, store.OpenMemory(), true, change...)
	t.Cleanup(func() { n.kv.Close() })
	return n
}

// openNode opens a node on kv. quick: logins are not limited.
func openNode(t testing.TB, kv store.KV, quick bool, change ...func(*Config)) *node {
	t.Helper()
	onion := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
	signing := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, ed25519.SeedSize))
	n := &node{t: t, kv: kv, server: onionid.FromKey(onion.Public().(ed25519.PublicKey)), log: &bytes.Buffer{}}
	var err error
	if n.stream, err = store.OpenStream(n.kv); err != nil {
		t.Fatal(err)
	}
	if n.accounts, err = account.Open(n.kv, n.stream, account.Options{Server: n.server, NoRateLimit: quick}); err != nil {
		t.Fatal(err)
	}
	pub := signing.Public().(ed25519.PublicKey)
	n.rooms, err = room.Open(n.kv, n.stream, room.Options{
		Signer:      matrix.Signer{Server: n.server, KeyID: onionid.KeyID(pub), Key: signing},
		Certificate: onionid.Certify(onion, pub),
		Profile: func(u matrix.UserID) (string, string) {
			p, _ := n.accounts.Profile(u)
			return p.DisplayName, p.AvatarURL
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	files, err := media.Open(t.TempDir(), n.kv, media.Options{MaxUpload: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Media: files, Rooms: n.rooms, Accounts: n.accounts, Stream: n.stream, Server: n.server, BaseURL: "http://127.0.0.1:8008",
		NoRateLimit: quick, Log: slog.New(slog.NewTextHandler(n.log, &slog.HandlerOptions{Level: slog.LevelInfo}))}
	for _, f := range change {
		f(&c)
	}
	n.api = New(c)
	return n
}

// device is a logged-in client.
type device struct {
	n     *node
	user  matrix.UserID
	id    matrix.DeviceID
	token string
	txns  int
}

// join makes a user with a session, without the cost of a password where it exists already.
func (n *node) person(name string) *device {
	n.t.Helper()
	user := matrix.UserID("@" + name + ":" + string(n.server))
	if ok, err := n.accounts.Exists(user); err != nil {
		n.t.Fatal(err)
	} else if !ok {
		if _, err := n.accounts.Create(name, password); err != nil {
			n.t.Fatal(err)
		}
	}
	s, err := n.accounts.NewSession(user, account.Login{})
	if err != nil {
		n.t.Fatal(err)
	}
	return &device{n: n, user: user, id: s.Device, token: s.AccessToken}
}

// obj is a JSON object of an answer.
type obj = map[string]any

// answer of one request.
type answer struct {
	t      testing.TB
	asked  string
	status int
	header http.Header
	raw    string
}

// request makes one; body: nil, a string as it is, or anything that becomes JSON.
func (n *node) request(token, method, path string, body any) answer {
	n.t.Helper()
	return n.requestCtx(n.t.Context(), token, method, path, body)
}

func (n *node) requestCtx(ctx context.Context, token, method, path string, body any) answer {
	n.t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	default:
		raw, err := json.Marshal(body)
		if err != nil {
			n.t.Fatal(err)
		}
		r = bytes.NewReader(raw)
	}
	if !strings.HasPrefix(path, "/_matrix") && !strings.HasPrefix(path, "/.well") {
		path = "/_matrix/client/v3" + path
	}
	q := httptest.NewRequestWithContext(ctx, method, path, r)
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	n.api.ServeHTTP(w, q)
	if w.Code < 300 {
		passed.note(q.Pattern, n.t.Name())
	}
	return answer{n.t, method + " " + path, w.Code, w.Header(), w.Body.String()}
}

func (d *device) do(method, path string, body any) answer {
	d.n.t.Helper()
	return d.n.request(d.token, method, path, body)
}

// ok wants a 200 and gives the object.
func (a answer) ok() obj {
	a.t.Helper()
	if a.status != 200 {
		a.t.Fatalf("%s: status %d, want 200: %s", a.asked, a.status, a.raw)
	}
	return a.object()
}

func (a answer) object() obj {
	a.t.Helper()
	var o obj
	if err := json.Unmarshal([]byte(a.raw), &o); err != nil {
		a.t.Fatalf("%s: not an object: %v: %s", a.asked, err, a.raw)
	}
	return o
}

// fails wants a status and an errcode, as the spec's error object.
func (a answer) fails(status int, code string) obj {
	a.t.Helper()
	o := a.object()
	if a.status != status || o["errcode"] != code {
		a.t.Fatalf("%s: %d %v, want %d %s: %s", a.asked, a.status, o["errcode"], status, code, a.raw)
	}
	if s, ok := o["error"].(string); !ok || s == "" {
		a.t.Fatalf("%s: no error text: %s", a.asked, a.raw)
	}
	return o
}

// at walks an answer: keys of objects, numbers of lists.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			o, _ := v.(obj)
			v = o[p]
		case int:
			l, _ := v.([]any)
			if p >= len(l) {
				return nil
			}
			v = l[p]
		}
	}
	return v
}

// list is at, of a list.
func list(v any, path ...any) []any {
	l, _ := at(v, path...).([]any)
	return l
}

func esc(s any) string { return url.PathEscape(fmt.Sprint(s)) }

func (d *device) create(body obj) string {
	d.n.t.Helper()
	return d.do("POST", "/createRoom", body).ok()["room_id"].(string)
}

func (d *device) say(room, text string) string {
	d.n.t.Helper()
	d.txns++
	return d.do("PUT", fmt.Sprintf("/rooms/%s/send/m.room.message/t%d", esc(room), d.txns),
		obj{"msgtype": "m.text", "body": text}).ok()["event_id"].(string)
}

// meet makes a room of d with others in it.
func (d *device) meet(others ...*device) string {
	d.n.t.Helper()
	r := d.create(obj{"preset": "public_chat"})
	for _, o := range others {
		o.do("POST", "/join/"+esc(r), obj{}).ok()
	}
	return r
}

// sync asks once.
func (d *device) sync(since string, query ...string) obj {
	d.n.t.Helper()
	q := url.Values{}
	if since != "" {
		q.Set("since", since)
	}
	for i := 0; i+1 < len(query); i += 2 {
		q.Set(query[i], query[i+1])
	}
	return d.do("GET", "/sync?"+q.Encode(), nil).ok()
}

func bodies(events []any) (out []string) {
	for _, e := range events {
		if s, ok := at(e, "content", "body").(string); ok {
			out = append(out, s)
		}
	}
	return out
}
