// SPDX-License-Identifier: Apache-2.0

package account

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"testing"

	"maunium.net/go/mautrix/crypto/canonicaljson"

	"tarn/matrix"
)

// signer is an Ed25519 key of a client.
type signer struct {
	t    testing.TB
	priv ed25519.PrivateKey
	pub  string
}

func newSigner(t testing.TB) signer {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{t, priv, base64.RawStdEncoding.EncodeToString(pub)}
}

type obj map[string]any

// sign signs o as user's key of that name, beside the signatures it has.
func (s signer) sign(o obj, user matrix.UserID, keyName string) obj {
	s.t.Helper()
	bare := obj{}
	for k, v := range o {
		if k != "signatures" && k != "unsigned" {
			bare[k] = v
		}
	}
	msg, err := canonicaljson.Marshal(bare)
	if err != nil {
		s.t.Fatal(err)
	}
	all, _ := o["signatures"].(obj)
	out, sigs := obj{}, obj{}
	for k, v := range o {
		out[k] = v
	}
	for u, v := range all {
		sigs[u] = v
	}
	mine := obj{}
	if old, ok := sigs[string(user)].(obj); ok {
		for k, v := range old {
			mine[k] = v
		}
	}
	mine["ed25519:"+keyName] = base64.RawStdEncoding.EncodeToString(ed25519.Sign(s.priv, msg))
	sigs[string(user)] = mine
	out["signatures"] = sigs
	return out
}

func (o obj) raw(t testing.TB) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// with is o with some fields replaced; a nil value removes one.
func (o obj) with(pairs ...any) obj {
	out := obj{}
	for k, v := range o {
		out[k] = v
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == nil {
			delete(out, pairs[i].(string))
			continue
		}
		out[pairs[i].(string)] = pairs[i+1]
	}
	return out
}

// phone is a logged-in device with keys.
type phone struct {
	t      testing.TB
	n      node
	user   matrix.UserID
	device matrix.DeviceID
	key    signer
	curve  string
}

func (n node) phone(t testing.TB, user matrix.UserID, device matrix.DeviceID) phone {
	t.Helper()
	n.login(t, user, Login{Device: device})
	return phone{t, n, user, device, newSigner(t), newSigner(t).pub}
}

func (p phone) identity() obj {
	return obj{
		"user_id": p.user, "device_id": p.device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"},
		"keys": obj{"ed25519:" + string(p.device): p.key.pub, "curve25519:" + string(p.device): p.curve},
	}
}

func (p phone) signedIdentity() json.RawMessage {
	return p.key.sign(p.identity(), p.user, string(p.device)).raw(p.t)
}

func (p phone) signedKey(fields ...any) json.RawMessage {
	o := obj{"key": newSigner(p.t).pub}.with(fields...)
	return p.key.sign(o, p.user, string(p.device)).raw(p.t)
}

// publish uploads the identity keys and n one-time keys named from..from+n-1.
func (p phone) publish(ids ...string) KeyCounts {
	p.t.Helper()
	up := KeyUpload{Device: p.signedIdentity(), OneTime: map[string]json.RawMessage{}}
	for _, id := range ids {
		up.OneTime["signed_curve25519:"+id] = p.signedKey()
	}
	c, _, err := p.n.UploadKeys(p.user, p.device, up)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// cross is a user's cross-signing key set.
type cross struct{ master, self, user signer }

func newCross(t testing.TB) cross { return cross{newSigner(t), newSigner(t), newSigner(t)} }

func crossObject(s signer, user matrix.UserID, usage string) obj {
	return obj{"user_id": user, "usage": []string{usage}, "keys": obj{"ed25519:" + s.pub: s.pub}}
}

func (c cross) upload(t testing.TB, user matrix.UserID) CrossSigning {
	return CrossSigning{
		Master:      crossObject(c.master, user, "master").raw(t),
		SelfSigning: c.master.sign(crossObject(c.self, user, "self_signing"), user, c.master.pub).raw(t),
		UserSigning: c.master.sign(crossObject(c.user, user, "user_signing"), user, c.master.pub).raw(t),
	}
}
