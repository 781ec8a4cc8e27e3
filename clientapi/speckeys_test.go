// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/v2"
	"regexp"
	"strings"
)

// specKeys are the keys of a device of the spec tables, and (with the device whose name has no digit) its user's.
type specKeys struct {
	signing             keypair
	identity            obj // signed
	upload              string
	master, self, users keypair
	cross               obj
}

// specSigned are the variables that stand for JSON with keys and signatures:
//
//	$keys.alice2         a body for /keys/upload: the device's identity keys and the one-time key A
//	$otk.alice2.B        another one-time key of that device, signed; $spare.alice2.F is a fallback key
//	$cross.alice         a body for /keys/device_signing/upload; $self.alice is one with the self-signing key alone, $master.alice
//	                     is the public master key
//	$other.alice         a body for the same, of other keys each time
//	$sign.alice.alice2   a body for /keys/signatures/upload: alice's self-signing key signs her device
//	$sign.alice.bob      the same: alice's user-signing key signs bob's master key
//	$forge.alice.bob     the same with a key that may not
var specSigned = regexp.MustCompile(`\$(keys|otk|spare|cross|self|master|other|sign|forge)\.[a-z0-9]+(\.[A-Za-z0-9]+)?`)

func (s *specRun) keysOf(who string) *specKeys {
	if k := s.owned[who]; k != nil {
		return k
	}
	t, d := s.n.t, s.device(who)
	k := &specKeys{signing: newKey(t), master: newKey(t), self: newKey(t), users: newKey(t)}
	k.identity = k.signing.sign(t, d.identity(k.signing), d.user, string(d.id))
	k.upload = specJSON(obj{"device_keys": k.identity, "one_time_keys": obj{
		"signed_curve25519:A": k.signing.sign(t, obj{"key": newKey(t).pub}, d.user, string(d.id))}})
	key := func(usage string, k keypair) obj {
		return obj{"user_id": d.user, "usage": []string{usage}, "keys": obj{"ed25519:" + k.pub: k.pub}}
	}
	k.cross = obj{"master_key": key("master", k.master),
		"self_signing_key": k.master.sign(t, key("self_signing", k.self), d.user, k.master.pub),
		"user_signing_key": k.master.sign(t, key("user_signing", k.users), d.user, k.master.pub)}
	s.owned[who] = k
	return k
}

func specJSON(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err) // of maps and strings
	}
	return string(raw)
}

// signed is what one of specSigned stands for.
func (s *specRun) signed(name string) string {
	f := strings.Split(name[1:], ".")
	t, d, k := s.n.t, s.device(f[1]), s.keysOf(f[1])
	switch f[0] {
	case "keys":
		return k.upload
	case "otk":
		return specJSON(k.signing.sign(t, obj{"key": newKey(t).pub}, d.user, string(d.id)))
	case "spare":
		return specJSON(k.signing.sign(t, obj{"key": newKey(t).pub, "fallback": true}, d.user, string(d.id)))
	case "cross":
		return specJSON(k.cross)
	case "other":
		return specJSON(crossKeys(t, d.user))
	case "self":
		return specJSON(obj{"self_signing_key": k.cross["self_signing_key"]})
	case "master":
		return k.master.pub
	}
	to, other := s.device(f[2]), s.keysOf(f[2])
	if d.user == to.user {
		own := s.keysOf(strings.TrimRight(f[1], "0123456789"))
		by := own.self
		if f[0] == "forge" {
			by.priv = own.users.priv
		}
		return specJSON(obj{string(to.user): obj{string(to.id): by.sign(t, bare(other.identity), d.user, by.pub)}})
	}
	by := k.users
	if f[0] == "forge" {
		by.priv = k.self.priv
	}
	return specJSON(obj{string(to.user): obj{other.master.pub: by.sign(t, bare(other.cross["master_key"].(obj)), d.user, by.pub)}})
}

// bare is an object without its signatures.
func bare(o obj) obj {
	out := obj{}
	for k, v := range o {
		if k != "signatures" {
			out[k] = v
		}
	}
	return out
}
