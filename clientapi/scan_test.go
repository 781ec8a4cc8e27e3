// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"net/url"
	"slices"
	"strings"
	"testing"

	"tarn/matrix"
	"tarn/media"
	"tarn/room"
	"tarn/store"
	"tarn/store/storetest"
)

// TestNoRequestReadsTheWholeDatabase asks for every route of the table on two nodes. Alice's own things are the same on both;
// around them the second has many times more: strangers with rooms, accounts, devices and data, and in the room that she
// asks about a long past. Rows are counted, on a node that has just begun: nothing is in memory yet.
func TestNoRequestReadsTheWholeDatabase(t *testing.T) {
	small, large := furnish(t, 1), furnish(t, 25)
	if s, l := small.rows(), large.rows(); l < s+2500 {
		t.Fatalf("the large node has %d rows, the small one %d", l, s)
	}
	var order []route
	for _, r := range table {
		if !slices.Contains(ends, r.method+" "+r.path) {
			order = append(order, r)
		}
	}
	for _, end := range ends {
		i := slices.IndexFunc(table, func(r route) bool { return r.method+" "+r.path == end })
		order = append(order, table[i])
	}
	for _, r := range order {
		name := r.method + " " + r.path
		a, reads := small.ask(r)
		b, more := large.ask(r)
		want := 200
		if refused[name] != 0 {
			want = refused[name]
		}
		if a.status != want || b.status != want {
			t.Errorf("%s: %d, on the large node %d, want %d: %s", name, a.status, b.status, want, a.raw)
		}
		// A past is found by seeking in it, and a chain of differences of a state has a bounded length.
		allowed := reads + 30
		if name == "POST /user_directory/search" {
			allowed += 3 * (large.users - small.users) // the node's own users are what it looks through: a family's
		}
		if more > allowed {
			t.Errorf("%s: %d rows were read, on the large node %d", name, reads, more)
		}
	}
}

// ends are the routes that come last, for they end something that others need.
var ends = []string{
	"DELETE /pushrules/global/{kind}/{rule}", "DELETE " + dehydratedPath, "DELETE /room_keys/keys/{room}/{session}", "DELETE /room_keys/keys/{room}", "DELETE /room_keys/keys",
	"DELETE /room_keys/version/{version}", "POST /room_keys/version", "DELETE /directory/room/{alias}", "POST /rooms/{room}/upgrade", "POST /rooms/{room}/leave",
	"POST /rooms/{room}/forget", "DELETE /devices/{device}", "POST /logout", "POST /logout/all", "POST /account/password", "POST /account/deactivate",
}

// refused are the routes that say no here: there is nothing of the kind, or never is.
var refused = map[string]int{
	"POST /refresh":                                401,
	"GET /thirdparty/protocol/{protocol}":          404,
	"GET /thirdparty/location":                     404,
	"GET /thirdparty/location/{protocol}":          404,
	"GET /thirdparty/user":                         404,
	"GET /thirdparty/user/{protocol}":              404,
	"POST /account/3pid":                           403,
	"POST /account/3pid/add":                       403,
	"POST /account/3pid/bind":                      403,
	"POST /account/3pid/{medium}/requestToken":     403,
	"POST /account/password/{medium}/requestToken": 403,
	"POST /register/{medium}/requestToken":         403,
	"GET /presence/{user}/status":                  404, // in memory, and the node began a moment ago
	"POST /keys/device_signing/upload":             401, // asks for a proof
	"GET /voip/turnServer":                         404,
}

// house is a node with Alice's things in it.
type house struct {
	t     *testing.T
	kv    *storetest.Counter
	quiet store.KV // the same, not counted
	media string
	fill  map[string]string // of the paths' placeholders
	body  map[string]any    // of requests
	about map[string][2]string
	who   map[string]string // tokens of others than Alice, where a request ends a session
	token string
	times int
	users int
}

func furnish(t *testing.T, factor int) *house {
	h := &house{t: t, quiet: store.OpenMemory(), media: t.TempDir(), who: map[string]string{}}
	h.kv = storetest.Count(h.quiet)
	n := h.open()
	alice, bob := n.person("alice"), n.person("bob")
	h.token = alice.token
	for _, name := range []string{"carol", "dora", "erin", "fred", "gina"} {
		p := n.person(name)
		h.who[name] = p.token
	}
	r := alice.meet(bob)
	root := alice.say(r, "the root")
	event := bob.say(r, "hello")
	bob.do("PUT", "/rooms/"+esc(r)+"/send/m.reaction/r1", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": event, "key": "+"}}).ok()
	bob.do("PUT", "/rooms/"+esc(r)+"/send/m.room.message/r2", obj{"msgtype": "m.text", "body": "x", "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}}).ok()
	alice.do("POST", "/rooms/"+esc(r)+"/receipt/m.read/"+esc(event), obj{}).ok()

	h.users = 2 + len(h.who) + factor

	// What grows. Strangers share nothing with Alice.
	for i := range 2 * factor {
		stranger := matrix.UserID(fmt.Sprintf("@stranger%d:%s", i, n.server))
		id, err := n.rooms.Create(t.Context(), room.Create{Creator: stranger, Preset: "public_chat", Alias: fmt.Sprint("stranger", i), Name: fmt.Sprint("Strange ", i)})
		if err != nil {
			t.Fatal(err)
		}
		for j := range 3 {
			send(t, n, id, stranger, fmt.Sprint("strange ", j))
		}
		if i < factor {
			someone := n.person(fmt.Sprint("someone", i))
			other := someone.meet()
			someone.say(other, "hello")
			someone.do("PUT", "/user/"+string(someone.user)+"/account_data/org.test", obj{"x": 1}).ok()
			someone.do("POST", "/user/"+string(someone.user)+"/filter", obj{}).ok()
			someone.do("POST", "/keys/upload", obj{"one_time_keys": obj{"curve25519:A": strings.Repeat("A", 43)}}).ok()
			someone.do("PUT", "/sendToDevice/org.test/t", obj{"messages": obj{string(someone.user): obj{"*": obj{}}}}).ok()
		}
	}
	// The room's past: long before what Alice has read.
	for i := range 15 * factor {
		send(t, n, matrix.RoomID(r), bob.user, fmt.Sprint("long ago ", i))
	}
	// More than a page since, on both.
	for i := range 120 {
		send(t, n, matrix.RoomID(r), bob.user, fmt.Sprint("lately ", i))
	}
	late := bob.say(r, "late")
	alice.do("POST", "/rooms/"+esc(r)+"/receipt/m.read/"+esc(late), obj{}).ok()

	other := alice.create(obj{"preset": "public_chat"})
	old := alice.create(obj{"preset": "public_chat"})
	knocked := bob.create(obj{"preset": "private_chat", "initial_state": []any{obj{"type": "m.room.join_rules", "state_key": "", "content": obj{"join_rule": "knock"}}}})
	backup := alice.do("POST", "/room_keys/version", obj{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": obj{"public_key": "x"}}).ok()["version"].(string)
	session := obj{"first_message_index": 0, "forwarded_count": 0, "is_verified": false, "session_data": obj{}}
	filter := alice.do("POST", "/user/"+string(alice.user)+"/filter", obj{}).ok()["filter_id"].(string)
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 64, 64))); err != nil {
		t.Fatal(err)
	}
	file := strings.TrimPrefix(alice.do("POST", "/_matrix/media/v3/upload?filename=x.png", picture.String()).ok()["content_uri"].(string), "mxc://")
	server, media, _ := strings.Cut(file, "/")
	alice.do("PUT", "/directory/room/"+esc("#tea:"+string(n.server)), obj{"room_id": r}).ok()
	alice.do("PUT", "/user/"+string(alice.user)+"/account_data/org.test", obj{"x": 1}).ok()
	alice.do("PUT", "/user/"+string(alice.user)+"/rooms/"+r+"/account_data/org.test", obj{"x": 1}).ok()
	alice.do("PUT", "/rooms/"+esc(r)+"/state/m.room.topic", obj{"topic": "x"}).ok()
	alice.do("PUT", "/pushrules/global/content/tea", obj{"pattern": "tea", "actions": []any{"notify"}}).ok()
	dry := dehydrated(t, alice)
	alice.do("PUT", "/rooms/"+esc(r)+"/state/org.test", obj{"x": 1}).ok()
	alice.do("PUT", "/rooms/"+esc(r)+"/state/org.test/x", obj{"x": 1}).ok()
	alice.do("PUT", "/profile/"+string(alice.user)+"/org.test", obj{"org.test": "x"}).ok()
	spare := n.person("alice")
	promised := strings.TrimPrefix(alice.do("POST", "/_matrix/media/v3/create", obj{}).ok()["content_uri"].(string), "mxc://")
	token, err := n.accounts.NewRegistrationToken(0)
	if err != nil {
		t.Fatal(err)
	}
	since := alice.sync("")["next_batch"].(string)

	h.fill = map[string]string{
		"{device}": string(alice.id), "{version}": backup, "{room}": esc(r), "{session}": "s1", "{user}": string(alice.user), "{filter}": filter, "{target}": esc(r),
		"{event}": esc(event), "{alias}": esc("#tea:" + string(n.server)), "{type}": "org.test", "{rel}": "m.annotation", "{key}": "x", "{server}": server, "{media}": media,
		"{name}": "x.png", "{field}": "org.test", "{tag}": "u.x", "{kind}": "content", "{rule}": "tea", "{protocol}": "irc", "{medium}": "email", "{$}": "",
	}
	name := func(who string) obj { return obj{"type": "m.id.user", "user": who} }
	me := proof(password)
	h.body = map[string]any{
		"POST /login":                                 obj{"type": "m.login.password", "identifier": name("alice"), "password": password},
		"POST /login/get_token":                       obj{"auth": me},
		"POST /refresh":                               obj{"refresh_token": "unknown"},
		"POST /register":                              obj{"username": "newcomer", "password": password, "auth": obj{"type": "m.login.registration_token", "token": token}},
		"POST /account/password":                      obj{"new_password": password + "2", "auth": me},
		"POST /account/deactivate":                    obj{"auth": me},
		"POST /delete_devices":                        obj{"devices": []string{"NONE"}, "auth": me},
		"DELETE /devices/{device}":                    obj{"auth": me},
		"PUT /devices/{device}":                       obj{"display_name": "x"},
		"POST /keys/query":                            obj{"device_keys": obj{string(alice.user): []string{}, string(bob.user): []string{}}},
		"POST /keys/claim":                            obj{"one_time_keys": obj{string(bob.user): obj{string(bob.id): "signed_curve25519"}}},
		"POST /keys/signatures/upload":                obj{},
		"PUT /sendToDevice/{type}/{txn}":              obj{"messages": obj{string(bob.user): obj{"*": obj{}}}},
		"PUT " + dehydratedPath:                       dry("DRY2"),
		"POST " + dehydratedPath + "/{device}/events": obj{},
		"POST /room_keys/version":                     obj{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": obj{"public_key": "x"}},
		"PUT /room_keys/version/{version}":            obj{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": obj{"public_key": "y"}},
		"PUT /room_keys/keys":                         obj{"rooms": obj{r: obj{"sessions": obj{"s1": session}}}},
		"PUT /room_keys/keys/{room}":                  obj{"sessions": obj{"s1": session}},
		"PUT /room_keys/keys/{room}/{session}":        session,
		"POST /_matrix/client/unstable/org.matrix.simplified_msc3575/sync": roomList(19),
		"POST /createRoom":                            obj{"preset": "private_chat", "name": "x"},
		"POST /rooms/{room}/invite":                   obj{"user_id": "@erin:" + string(n.server)},
		"POST /rooms/{room}/kick":                     obj{"user_id": "@erin:" + string(n.server)},
		"POST /rooms/{room}/ban":                      obj{"user_id": "@erin:" + string(n.server)},
		"POST /rooms/{room}/unban":                    obj{"user_id": "@erin:" + string(n.server)},
		"POST /rooms/{room}/upgrade":                  obj{"new_version": "12"},
		"POST /rooms/{room}/report":                   obj{"reason": "x"},
		"POST /rooms/{room}/report/{event}":           obj{"reason": "x"},
		"POST /users/{user}/report":                   obj{"reason": "x"},
		"PUT /directory/room/{alias}":                 obj{"room_id": r},
		"PUT /directory/list/room/{room}":             obj{"visibility": "private"},
		"POST /search":                                obj{"search_categories": obj{"room_events": obj{"search_term": "hello"}}},
		"PUT /rooms/{room}/send/{type}/{txn}":         obj{"x": 1},
		"PUT /rooms/{room}/typing/{user}":             obj{"typing": true, "timeout": 1000},
		"POST /rooms/{room}/read_markers":             obj{"m.fully_read": late, "m.read": late},
		"PUT /profile/{user}/displayname":             obj{"displayname": "x"},
		"PUT /profile/{user}/avatar_url":              obj{"avatar_url": "mxc://" + file},
		"PUT /profile/{user}/{field}":                 obj{"org.test": "x"},
		"PUT /presence/{user}/status":                 obj{"presence": "online"},
		"POST /user_directory/search":                 obj{"search_term": "bob"},
		"POST /pushers/set":                           obj{"kind": "http", "app_id": "x", "pushkey": "x", "app_display_name": "x", "device_display_name": "x", "lang": "en", "data": obj{"url": "https://example.org/_matrix/push/v1/notify"}},
		"PUT /pushrules/global/{kind}/{rule}":         obj{"pattern": "tea", "actions": []any{"notify"}},
		"PUT /pushrules/global/{kind}/{rule}/enabled": obj{"enabled": true},
		"PUT /pushrules/global/{kind}/{rule}/actions": obj{"actions": []any{"notify"}},
		"POST /account/3pid/delete":                   obj{"medium": "email", "address": "a@b"},
		"POST /account/3pid/unbind":                   obj{"medium": "email", "address": "a@b"},
		"POST /upload":                                "some bytes",
		"PUT /upload/{server}/{media}":                "some bytes",
		"PUT /user/{user}/rooms/{room}/tags/{tag}":    obj{"order": 0.5},
	}
	// Where the path must be another, or has a query.
	h.fill["GET /register/available"] = "?username=nobody"
	h.fill["GET /register/m.login.registration_token/validity"] = "?token=x"
	h.fill["GET /keys/changes"] = "?from=" + since + "&to=" + since
	h.fill["GET /sync"] = "?timeout=0"
	h.fill["GET "+threadsPath] = "?dir=b"
	for _, path := range []string{"/mutual_rooms", "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms"} {
		h.fill["GET "+path] = "?user_id=" + url.QueryEscape(string(bob.user))
	}
	for _, what := range []string{"PUT /room_keys/keys", "PUT /room_keys/keys/{room}", "PUT /room_keys/keys/{room}/{session}", "GET /room_keys/keys", "GET /room_keys/keys/{room}",
		"GET /room_keys/keys/{room}/{session}", "DELETE /room_keys/keys", "DELETE /room_keys/keys/{room}", "DELETE /room_keys/keys/{room}/{session}"} {
		h.fill[what] = "?version=" + backup
	}
	h.fill["GET /rooms/{room}/messages"] = "?dir=b&limit=20"
	h.fill["GET /rooms/{room}/timestamp_to_event"] = "?dir=f&ts=0"
	h.fill["GET /thumbnail/{server}/{media}"] = "?width=32&height=32"
	h.fill["GET /media/thumbnail/{server}/{media}"] = "?width=32&height=32"
	// And what a request is about where it must be something else than usual.
	h.about = map[string][2]string{
		"POST /knock/{target}": {"{target}", esc(knocked)}, "POST /rooms/{room}/upgrade": {"{room}", esc(other)}, "POST /rooms/{room}/leave": {"{room}", esc(old)},
		"POST /rooms/{room}/forget": {"{room}", esc(old)}, "PUT /directory/room/{alias}": {"{alias}", esc("#new:" + string(n.server))},
		"POST /rooms/{room}/receipt/{type}/{event}": {"{type}", "m.read"}, "GET " + dehydratedPath + "/{device}/events": {"{device}", "DRY2"},
		"POST " + dehydratedPath + "/{device}/events": {"{device}", "DRY2"}, "DELETE /devices/{device}": {"{device}", string(spare.id)},
		"PUT /upload/{server}/{media}": {"{server}/{media}", promised}, "POST /users/{user}/report": {"{user}", string(bob.user)},
	}
	return h
}

func send(t *testing.T, n *node, r matrix.RoomID, u matrix.UserID, text string) {
	t.Helper()
	content, err := json.Marshal(obj{"msgtype": "m.text", "body": text})
	if err == nil {
		_, err = n.rooms.Send(context.Background(), room.NewEvent{Room: r, Sender: u, Type: "m.room.message", Content: content})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// dehydrated gives alice a dehydrated device, and makes the bodies of others.
func dehydrated(t *testing.T, alice *device) func(id string) obj {
	body := func(id string) obj {
		d, k := &device{n: alice.n, user: alice.user, id: matrix.DeviceID(id)}, newKey(t)
		otk := k.sign(t, obj{"key": newKey(t).pub}, alice.user, id)
		return obj{"device_id": id, "device_data": obj{"algorithm": "m.dehydration.v1.olm"}, "device_keys": k.sign(t, d.identity(k), alice.user, id),
			"one_time_keys": obj{"signed_curve25519:A": otk}}
	}
	alice.do("PUT", dehydratedPath, body("DRY1")).ok()
	return body
}

// open is a new process on the data.
func (h *house) open() *node {
	files, err := media.Open(h.media, h.kv, media.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	return openNode(h.t, h.kv, true, func(c *Config) { c.Media = files })
}

func (h *house) rows() (n int) {
	if err := h.quiet.View(func(r store.Reader) error {
		return r.Scan(nil, nil, func(_, _ []byte) (bool, error) { n++; return true, nil })
	}); err != nil {
		h.t.Fatal(err)
	}
	return n
}

// ask makes a route's request, and tells how many rows it read.
func (h *house) ask(r route) (answer, int) {
	h.t.Helper()
	n := h.open()
	name := r.method + " " + r.path
	fill := map[string]string{"{txn}": fmt.Sprint("t", h.times)}
	token := h.token
	switch name {
	case "POST /logout":
		token = h.who["carol"]
	case "POST /logout/all":
		token = h.who["dora"]
	case "POST /account/deactivate":
		token = h.who["fred"]
	case "POST /account/password":
		token = h.who["gina"]
	}
	if r.auth == anyone {
		token = ""
	}
	path := r.in.prefixes()[0] + r.path
	if x, other := h.about[name]; other {
		path = strings.ReplaceAll(path, x[0], x[1])
	}
	for k, v := range h.fill {
		if _, other := fill[k]; strings.HasPrefix(k, "{") && !other {
			fill[k] = v
		}
	}
	for k, v := range fill {
		path = strings.ReplaceAll(path, k, v)
	}
	path += h.fill[name]
	var body any
	if r.body != 0 {
		if body = h.body[name]; body == nil {
			body = obj{}
		}
	}
	h.kv.Take()
	h.times++
	a := n.request(token, r.method, path, body)
	return a, h.kv.Take().Reads()
}
