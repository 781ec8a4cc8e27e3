// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"

	"maunium.net/go/mautrix/crypto/canonicaljson"

	"tarn/matrix"
)

const client = "/_matrix/client/v3"

type object = map[string]any

// device is what a client does for end-to-end encryption, without the ciphers: keys that are really signed.
type device struct {
	t    *testing.T
	n    *node
	id   string
	user matrix.UserID
	key  ed25519.PrivateKey
	next int
}

func newKey() (ed25519.PrivateKey, string) {
	public, private, _ := ed25519.GenerateKey(rand.Reader)
	return private, base64.RawStdEncoding.EncodeToString(public)
}

func sign(t *testing.T, o object, user matrix.UserID, name string, key ed25519.PrivateKey) object {
	t.Helper()
	bare := object{}
	for k, v := range o {
		if k != "signatures" {
			bare[k] = v
		}
	}
	message, err := canonicaljson.Marshal(bare)
	if err != nil {
		t.Fatal(err)
	}
	bare["signatures"] = object{string(user): object{"ed25519:" + name: base64.RawStdEncoding.EncodeToString(ed25519.Sign(key, message))}}
	return bare
}

// fresh makes one-time keys.
func (d *device) fresh(n int) object {
	keys := object{}
	for range n {
		_, public := newKey()
		d.next++
		keys[fmt.Sprintf("signed_curve25519:K%04d", d.next)] = sign(d.t, object{"key": public}, d.user, d.id, d.key)
	}
	return keys
}

func (d *device) fallback() object {
	_, public := newKey()
	d.next++
	return object{fmt.Sprintf("signed_curve25519:F%04d", d.next): sign(d.t, object{"key": public, "fallback": true}, d.user, d.id, d.key)}
}

func (d *device) upload(keys object) {
	d.n.call("POST", client+"/keys/upload", object{"one_time_keys": keys}, nil)
}

// crossSign uploads cross-signing keys and signs the device; the master key's public half.
func (d *device) crossSign(t *testing.T) (master, self string) {
	t.Helper()
	key := func(usage, public string) object {
		return object{"user_id": d.user, "usage": []string{usage}, "keys": object{"ed25519:" + public: public}}
	}
	mk, master := newKey()
	sk, self := newKey()
	_, user := newKey()
	d.n.call("POST", client+"/keys/device_signing/upload", object{"master_key": key("master", master),
		"self_signing_key": sign(t, key("self_signing", self), d.user, master, mk), "user_signing_key": sign(t, key("user_signing", user), d.user, master, mk)}, nil)
	devices, _, _ := d.n.query(d.user)
	var own object
	if err := json.Unmarshal(devices[d.id], &own); err != nil {
		t.Fatal(err)
	}
	delete(own, "unsigned")
	var failed struct{ Failures object }
	d.n.call("POST", client+"/keys/signatures/upload", object{string(d.user): object{d.id: sign(t, own, d.user, self, sk)}}, &failed)
	if len(failed.Failures) > 0 {
		t.Fatal(failed)
	}
	return master, self
}
