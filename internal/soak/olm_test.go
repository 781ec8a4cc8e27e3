// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"

	"maunium.net/go/mautrix/crypto/canonicaljson"
	"maunium.net/go/mautrix/crypto/goolm/account"
	"maunium.net/go/mautrix/crypto/goolm/session"
	"maunium.net/go/mautrix/crypto/olm"
	"maunium.net/go/mautrix/crypto/signatures"
	"maunium.net/go/mautrix/id"
)

const (
	keysUp   = 50  // one-time keys that a client keeps on its node
	rotation = 100 // messages that a room key is used for
	olmAlg   = "m.olm.v1.curve25519-aes-sha2"
	megolm   = "m.megolm.v1.aes-sha2"
	otkAlg   = "signed_curve25519"
	noDevice = "no device is known"
)

// olmDevice is a client's end-to-end encryption: the protocol of room keys in the simplest form that clients have it, on mautrix's olm
// in Go. (Its OlmMachine needs a build tag, and signs one-time keys wrongly where GOEXPERIMENT=jsonv2: test/clients/goolm.)
type olmDevice struct {
	c        *client
	acct     *account.Account
	ed       id.Ed25519
	curve    id.Curve25519
	sessions map[id.Curve25519][]olm.Session
	devices  map[string]map[string]peerDevice // by user; a user that is not there is asked for
	out      map[string]*roomKey              // by room
	in       map[string]*session.MegolmInboundSession
	waiting  map[string][]waiting // by room key: events that came before it
	unsent   []object             // to-device requests that a dead node did not take: they go first
	fallback bool                 // the server has one
}

type peerDevice struct {
	id    string
	curve id.Curve25519
	ed    id.Ed25519
}

type roomKey struct {
	s       *session.MegolmOutboundSession
	has     map[string]bool // devices, "user device"
	members map[string]bool
}

type waiting struct {
	room string
	e    shownEvent
}

func newOlmDevice(c *client) *olmDevice {
	a, err := account.NewAccount()
	c.n.w.must(err)
	d := &olmDevice{c: c, acct: a, sessions: map[id.Curve25519][]olm.Session{}, devices: map[string]map[string]peerDevice{}, out: map[string]*roomKey{},
		in: map[string]*session.MegolmInboundSession{}, waiting: map[string][]waiting{}}
	d.ed, d.curve, err = a.IdentityKeys()
	c.n.w.must(err)
	keys := d.sign(object{"user_id": c.n.user, "device_id": c.device, "algorithms": []string{olmAlg, megolm},
		"keys": object{"ed25519:" + c.device: d.ed, "curve25519:" + c.device: d.curve}})
	c.need("POST", api+"/keys/upload", object{"device_keys": keys}, nil)
	d.refill(0)
	return d
}

func (d *olmDevice) sign(o object) object {
	b, err := canonicaljson.Marshal(o)
	d.c.n.w.must(err)
	s, err := d.acct.Sign(b)
	d.c.n.w.must(err)
	o["signatures"] = object{string(d.c.n.user): object{"ed25519:" + d.c.device: string(s)}}
	return o
}

// refill uploads one-time keys, and a fallback key if there is none that is unused.
func (d *olmDevice) refill(have int) {
	body := object{}
	if n := keysUp - have; n > 0 {
		fresh, err := d.acct.OneTimeKeys() // what an upload that failed left is uploaded again
		d.c.n.w.must(err)
		if n -= len(fresh); n > 0 {
			d.c.n.w.must(d.acct.GenOneTimeKeys(uint(n)))
			fresh, err = d.acct.OneTimeKeys()
			d.c.n.w.must(err)
		}
		keys := object{}
		for name, k := range fresh {
			keys[otkAlg+":"+name] = d.sign(object{"key": k})
		}
		body["one_time_keys"] = keys
	}
	if !d.fallback {
		if len(d.acct.FallbackKeyUnpublished()) == 0 {
			d.c.n.w.must(d.acct.GenFallbackKey())
		}
		keys := object{}
		for name, k := range d.acct.FallbackKeyUnpublished() {
			keys[otkAlg+":"+name] = d.sign(object{"key": k, "fallback": true})
		}
		body["fallback_keys"] = keys
	}
	if len(body) == 0 {
		return
	}
	if status, _ := d.c.ask("POST", api+"/keys/upload", body, nil); status == http.StatusOK {
		d.acct.MarkKeysAsPublished()
		d.fallback = true
	}
}

// hear takes what a sync has of keys.
func (d *olmDevice) hear(a *syncAnswer) {
	for _, e := range a.ToDevice.Events {
		if e.Type == "m.room.encrypted" {
			d.open(e.Sender, e.Content)
		}
	}
	for _, u := range slices.Concat(a.DeviceLists.Changed, a.DeviceLists.Left) {
		delete(d.devices, u)
	}
	d.fallback = slices.Contains(a.Unused, otkAlg)
	if n := a.OneTime[otkAlg]; n < keysUp/2 || !d.fallback {
		d.refill(n)
	}
}

// open decrypts a to-device message; a room key in it opens what waited for it.
func (d *olmDevice) open(sender string, content json.RawMessage) {
	var c struct {
		SenderKey  id.Curve25519 `json:"sender_key"`
		Ciphertext map[string]struct {
			Type id.OlmMsgType
			Body string
		}
	}
	if json.Unmarshal(content, &c) != nil {
		return
	}
	box, ok := c.Ciphertext[string(d.curve)]
	if !ok {
		return
	}
	plain, err := d.decrypt(c.SenderKey, box.Type, box.Body)
	if err != nil {
		d.c.n.w.note("node %d: a to-device message of %s: %v", d.c.n.n, sender, err)
		return
	}
	var p struct {
		Type, Sender, Recipient string
		Content                 struct {
			Room    string `json:"room_id"`
			Session string `json:"session_id"`
			Key     string `json:"session_key"`
		}
	}
	if json.Unmarshal(plain, &p) != nil || p.Sender != sender || p.Recipient != string(d.c.n.user) || p.Type != "m.room_key" {
		d.c.n.w.t.Errorf("node %d: a to-device message of %s is not for it or not by him", d.c.n.n, sender)
		return
	}
	if d.in[p.Content.Session] != nil {
		return // the first has the most
	}
	s, err := session.NewMegolmInboundSession([]byte(p.Content.Key))
	d.c.n.w.must(err)
	d.in[p.Content.Session] = s
	queue := d.waiting[p.Content.Session]
	delete(d.waiting, p.Content.Session)
	for _, w := range queue {
		if m := d.c.n.w.texts[d.text(w.room, &w.e)]; m != nil {
			d.c.n.w.heard(d.c, m)
		}
	}
}

func (d *olmDevice) decrypt(from id.Curve25519, kind id.OlmMsgType, body string) ([]byte, error) {
	for _, s := range d.sessions[from] {
		if kind == id.OlmMsgTypePreKey {
			if ok, err := s.MatchesInboundSessionFrom(string(from), body); err != nil || !ok {
				continue
			}
		}
		plain, err := s.Decrypt(body, kind)
		if err == nil || kind == id.OlmMsgTypePreKey {
			return plain, err
		}
	}
	if kind != id.OlmMsgTypePreKey {
		return nil, fmt.Errorf("no session of %d opens it", len(d.sessions[from]))
	}
	s, err := d.acct.NewInboundSessionFrom(&from, body)
	if err != nil {
		return nil, err
	}
	plain, err := s.Decrypt(body, kind)
	if err != nil {
		return nil, err
	}
	d.c.n.w.must(d.acct.RemoveOneTimeKeys(s))
	d.sessions[from] = append([]olm.Session{s}, d.sessions[from]...)
	return plain, nil
}

// text is what a message says, "" if it is none or cannot be read (yet).
func (d *olmDevice) text(room string, e *shownEvent) string {
	var c struct {
		Body, Ciphertext string
		Session          string `json:"session_id"`
	}
	if json.Unmarshal(e.Content, &c) != nil {
		return ""
	}
	switch e.Type {
	case "m.room.message":
		return head(c.Body)
	case "m.room.encrypted":
		s := d.in[c.Session]
		if s == nil {
			if c.Session != "" {
				d.waiting[c.Session] = append(d.waiting[c.Session], waiting{room, *e})
			}
			return ""
		}
		plain, _, err := s.Decrypt([]byte(c.Ciphertext))
		var p struct {
			Room    string `json:"room_id"`
			Content struct{ Body string }
		}
		if err != nil || json.Unmarshal(plain, &p) != nil || p.Room != room {
			if !errors.Is(err, olm.ErrUnknownMessageIndex) { // from before it was given the key
				d.c.n.w.note("node %d: an event that it has the key of: %v", d.c.n.n, err)
			}
			return ""
		}
		return head(p.Content.Body)
	}
	return ""
}

// seal encrypts a message for the members. missing are those for whom there was nothing to encrypt to.
func (d *olmDevice) seal(room string, members map[string]bool, body string) (content object, missing map[string]string, ok bool) {
	missing = map[string]string{}
	k := d.out[room]
	gone := k != nil && slices.ContainsFunc(slices.Collect(maps.Keys(k.members)), func(u string) bool { return !members[u] })
	if k == nil || gone || k.s.MessageIndex() >= rotation {
		s, err := session.NewMegolmOutboundSession()
		d.c.n.w.must(err)
		k = &roomKey{s: s, has: map[string]bool{}}
		d.out[room] = k
		in, err := session.NewMegolmInboundSession([]byte(s.Key()))
		d.c.n.w.must(err)
		d.in[string(s.ID())] = in
	}
	k.members = maps.Clone(members)
	if !d.share(room, k, slices.Sorted(maps.Keys(members)), missing) {
		return nil, nil, false
	}
	plain, err := json.Marshal(object{"type": "m.room.message", "room_id": room, "content": object{"msgtype": "m.text", "body": body}})
	d.c.n.w.must(err)
	sealed, err := k.s.Encrypt(plain)
	d.c.n.w.must(err)
	return object{"algorithm": megolm, "ciphertext": string(sealed), "session_id": k.s.ID(), "sender_key": d.curve, "device_id": d.c.device}, missing, true
}

// share sends the room key to devices that do not have it.
func (d *olmDevice) share(room string, k *roomKey, users []string, missing map[string]string) bool {
	for len(d.unsent) > 0 { // in order
		if !d.put(d.unsent[0]) {
			return false
		}
		d.unsent = d.unsent[1:]
	}
	if !d.query(users) {
		return false
	}
	claims := map[string]map[string]string{}
	var to []peerDevice
	owner := map[id.Curve25519]string{}
	for _, u := range users {
		if u == string(d.c.n.user) {
			continue
		}
		if len(d.devices[u]) == 0 {
			missing[u] = noDevice
			delete(d.devices, u) // asked for again next time
		}
		for _, name := range slices.Sorted(maps.Keys(d.devices[u])) {
			p := d.devices[u][name]
			if k.has[u+" "+name] {
				continue
			}
			to, owner[p.curve] = append(to, p), u
			if len(d.sessions[p.curve]) == 0 {
				if claims[u] == nil {
					claims[u] = map[string]string{}
				}
				claims[u][name] = otkAlg
			}
		}
	}
	if len(claims) > 0 {
		var a struct {
			Keys map[string]map[string]map[string]json.RawMessage `json:"one_time_keys"`
		}
		if status, _ := d.c.ask("POST", api+"/keys/claim", object{"one_time_keys": claims}, &a); status != http.StatusOK {
			return false
		}
		for _, p := range to {
			for _, raw := range a.Keys[owner[p.curve]][p.id] {
				d.begin(owner[p.curve], p, raw)
			}
		}
	}
	messages := map[string]map[string]any{}
	for _, p := range to {
		u := owner[p.curve]
		if len(d.sessions[p.curve]) == 0 {
			missing[u] = "no one-time key"
			continue
		}
		plain, err := json.Marshal(object{"type": "m.room_key", "sender": d.c.n.user, "recipient": u, "recipient_keys": object{"ed25519": p.ed}, "keys": object{"ed25519": d.ed},
			"content": object{"algorithm": megolm, "room_id": room, "session_id": k.s.ID(), "session_key": k.s.Key()}})
		d.c.n.w.must(err)
		kind, body, err := d.sessions[p.curve][0].Encrypt(plain)
		d.c.n.w.must(err)
		if messages[u] == nil {
			messages[u] = map[string]any{}
		}
		messages[u][p.id] = object{"algorithm": olmAlg, "sender_key": d.curve, "ciphertext": object{string(p.curve): object{"type": kind, "body": string(body)}}}
		k.has[u+" "+p.id] = true
	}
	if len(messages) == 0 {
		return true
	}
	q := object{"txn": d.c.nextTxn(), "messages": messages}
	if !d.put(q) {
		d.unsent = append(d.unsent, q) // the ratchet has gone on: it must be sent before the event is
		return false
	}
	return true
}

func (d *olmDevice) put(q object) bool {
	status, text := d.c.ask("PUT", api+"/sendToDevice/m.room.encrypted/"+q["txn"].(string), object{"messages": q["messages"]}, nil)
	if status != http.StatusOK && status != 0 && status < 500 {
		d.c.n.w.t.Errorf("node %d: sendToDevice: %d %s", d.c.n.n, status, text)
	}
	return status == http.StatusOK
}

// begin makes a session with a device from one of its one-time keys.
func (d *olmDevice) begin(user string, p peerDevice, raw json.RawMessage) {
	var k struct{ Key id.Curve25519 }
	ok, err := signatures.VerifySignatureJSON(raw, id.UserID(user), p.id, p.ed)
	if err != nil || !ok || json.Unmarshal(raw, &k) != nil {
		d.c.n.w.t.Errorf("node %d: a one-time key of %s's is not signed: %v", d.c.n.n, user, err)
		return
	}
	s, err := d.acct.NewOutboundSession(p.curve, k.Key)
	d.c.n.w.must(err)
	d.sessions[p.curve] = append(d.sessions[p.curve], s)
}

// query asks for the devices of those users whose devices are not known, or have changed.
func (d *olmDevice) query(users []string) bool {
	ask := object{}
	for _, u := range users {
		if _, ok := d.devices[u]; !ok && u != string(d.c.n.user) {
			ask[u] = []string{}
		}
	}
	if len(ask) == 0 {
		return true
	}
	var a struct {
		Keys map[string]map[string]struct {
			Keys map[string]string
		} `json:"device_keys"`
	}
	if status, _ := d.c.ask("POST", api+"/keys/query", object{"device_keys": ask}, &a); status != http.StatusOK {
		return false
	}
	for u := range ask {
		d.devices[u] = map[string]peerDevice{}
		for name, k := range a.Keys[u] {
			d.devices[u][name] = peerDevice{id: name, curve: id.Curve25519(k.Keys["curve25519:"+name]), ed: id.Ed25519(k.Keys["ed25519:"+name])}
		}
	}
	return true
}

// head is the part of a body that names the message.
func head(body string) string {
	for i := range len(body) {
		if body[i] == ' ' {
			return body[:i]
		}
	}
	return body
}

func b64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

func escape(room string) string { return url.PathEscape(room) }
