// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/oprf"
	"golang.org/x/crypto/chacha20poly1305"
)

// block is one vector of SPEC.md: the lines "key = value" between ```vector NAME and ```.
type block map[string]string

func (b block) hex(key string) []byte {
	v, err := hex.DecodeString(b[key])
	if err != nil || len(v) == 0 {
		panic(fmt.Sprintf("%q is not hexadecimal: %q", key, b[key]))
	}
	return v
}

func (b block) num(key string) uint64 {
	n, err := strconv.ParseUint(b[key], 10, 64)
	if err != nil {
		panic(fmt.Sprintf("%q is not a number: %q", key, b[key]))
	}
	return n
}

func (b block) key(name string) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(b.hex(name)) }

// vectors compute, for each block, what must stand in it.
var vectors = map[string]func(b block) map[string]string{
	"onionid": func(b block) map[string]string {
		onion, signing := b.key("onion seed"), public(b.key("signing seed"))
		id := base64.URLEncoding.EncodeToString(sum256(signing)[:6])
		return map[string]string{
			"name":        nameOf(public(onion)),
			"certificate": hex.EncodeToString(certify(onion, signing)),
			"key id":      "ed25519:" + strings.ReplaceAll(id, "-", "_"),
		}
	},
	"places": func(b block) map[string]string {
		names := []string{"a", "b", "c"}
		score := func(n string) []byte { return mac(b.hex("place"), []byte(nameOf(public(b.key("store "+n+" seed"))))) }
		slices.SortFunc(names, func(x, y string) int { return bytes.Compare(score(y), score(x)) })
		return map[string]string{"order": strings.Join(names, " ")}
	},
	"mailbox request": func(b block) map[string]string {
		onion := public(b.key("onion seed"))
		padded := func(op byte, rest ...[]byte) string {
			return hex.EncodeToString(bytes.TrimRight(cat([]byte{op}, make([]byte, 96), cat(rest...)), "\x00"))
		}
		return map[string]string{
			"address":                           "tarn-mailbox:1:" + strings.TrimSuffix(nameOf(onion), ".onion"),
			"info":                              hex.EncodeToString(cat([]byte("tarn/1 store request\x00"), onion, u32(uint32(b.num("epoch"))))),
			"plaintext get of 0102030405060708": padded(2, []byte{1, 2, 3, 4, 5, 6, 7, 8}),
			"plaintext digest level 2 index 1000000 part 3": padded(3, []byte{2}, u64(1_000_000), u16(3)),
		}
	},
	"mailbox half": func(b block) map[string]string {
		return map[string]string{
			"get of 0102030405060708":        hex.EncodeToString([]byte{2, 1, 2, 3, 4, 5, 6, 7, 8}),
			"digest level 1 index 77 part 0": hex.EncodeToString(bytes.TrimRight(cat([]byte{3, 1}, u64(77), u16(0)), "\x00")),
			"descriptor of all 05":           hex.EncodeToString(cat([]byte{6}, bytes.Repeat([]byte{5}, 32))),
		}
	},
	"mailbox session": func(b block) map[string]string {
		up, down := kdf(b.hex("key"), b.hex("salt"), "tarn/1 session up", 32), kdf(b.hex("key"), b.hex("salt"), "tarn/1 session down", 32)
		aead, err := chacha20poly1305.New(down)
		if err != nil {
			panic(err)
		}
		return map[string]string{
			"up": hex.EncodeToString(up), "down": hex.EncodeToString(down),
			"SHA-256 of an empty page frame": hex.EncodeToString(sum256(aead.Seal([]byte{2}, make([]byte, 12), make([]byte, 1477), []byte{2}))),
		}
	},
	"mailbox digest": func(b block) map[string]string {
		var handles []byte
		fields := strings.Fields(b["handles"])
		for _, h := range fields {
			handles = append(handles, block{"h": h}.hex("h")...)
		}
		part := cat([]byte{byte(b.num("level"))}, u64(b.num("index")), u16(0), u16(1), u16(len(fields)), handles)
		signed := cat([]byte("tarn/1 digest page\x00"), public(b.key("onion seed")), u64(b.num("bucket ms")), part)
		return map[string]string{"part": hex.EncodeToString(cat(part, ed25519.Sign(b.key("signing seed"), signed)))}
	},
	"witness": func(b block) map[string]string {
		onion, day, span := public(b.key("onion seed")), u32(uint32(b.num("day"))), u64(b.num("span"))
		var handles []byte
		for _, h := range strings.Fields(b["handles"]) {
			handles = append(handles, block{"h": h}.hex("h")...)
		}
		request, err := hpke.MLKEM768X25519().NewPrivateKey(b.hex("request key"))
		if err != nil {
			panic(err)
		}
		bucket := u64(b.num("bucket ms"))
		return map[string]string{
			"claim request key": hex.EncodeToString(sum256([]byte("tarn/1 witness claim\x00"), onion, []byte{1}, day, request.PublicKey().Bytes())),
			"claim digest":      hex.EncodeToString(sum256([]byte("tarn/1 witness claim\x00"), onion, []byte{3}, u32(0), public(b.key("signing seed")), bucket)),
			"span hash":         hex.EncodeToString(sum256([]byte("tarn/1 witness span\x00"), onion, bucket, span, handles)),
		}
	},
	"ratchet": func(b block) map[string]string {
		c := newChain(b.hex("root"), b["sender"], uint32(b.num("epoch")))
		for c.index < b.num("index") {
			c.next()
		}
		id, key, ad := c.next()
		return map[string]string{"id": hex.EncodeToString(id), "key": hex.EncodeToString(key), "box": hex.EncodeToString(sealZero(key, b.hex("payload"), ad))}
	},
	"bundle": func(b block) map[string]string {
		want := cat(str(b["room"]), list(strings.Fields(b["want"])...))
		return map[string]string{"bundle": hex.EncodeToString(bundleOf(uint32(b.num("epoch")), b.num("next"), b.hex("seen"), b.num("floor"), pieceOf(4, want)))}
	},
	"token": func(b block) map[string]string {
		public, seed, blinded, token := tokenOf(b.hex("key seed"), b.hex("secret"))
		h := hex.EncodeToString
		other, err := oprf.DeriveKey(oprf.SuiteRistretto255, oprf.VerifiableMode, b.hex("key seed"), []byte("tarn/1 session token key"))
		if err != nil {
			panic(err)
		}
		session, err := other.Public().MarshalBinary()
		if err != nil {
			panic(err)
		}
		return map[string]string{"session": h(session), "pkS": h(public), "input seed": h(seed), "blinded": h(blinded), "token": h(token)}
	},
	"left tokens": func(b block) map[string]string {
		tail := string(cat([]byte{byte(b.num("initiator"))}, u32(uint32(b.num("day"))), public(b.key("onion seed"))))
		return map[string]string{
			"id":  hex.EncodeToString(kdf(b.hex("recovery secret"), nil, "tarn/1 left tokens id"+tail, 16)),
			"key": hex.EncodeToString(kdf(b.hex("recovery secret"), nil, "tarn/1 left tokens key"+tail, 32)),
		}
	},
	"link": func(b block) map[string]string {
		return map[string]string{"link": linkOf(public(b.key("store seed")), b.hex("voucher"), b.num("expiry"))}
	},
	"first contact": func(b block) map[string]string {
		inviter, acceptor := b.key("inviter seed"), b.key("acceptor seed")
		linkKey, err := hpke.MLKEM768X25519().NewPrivateKey(b.hex("link key"))
		if err != nil {
			panic(err)
		}
		recoveryKey, err := hpke.MLKEM768X25519().NewPrivateKey(b.hex("recovery key"))
		if err != nil {
			panic(err)
		}
		body := cat([]byte{1}, public(inviter), uvarint(b.num("expiry")), sum256([]byte("tarn/1 number nonce\x00"), b.hex("nonce")), b.hex("reply secret"),
			linkKey.PublicKey().Bytes(), recoveryKey.PublicKey().Bytes(), str(string(certify(inviter, public(b.key("inviter signing seed"))))), list(nameOf(public(b.key("store seed")))))
		voucher := sum256(body, ed25519.Sign(inviter, cat([]byte("tarn/1 invitation\x00"), body)))
		root, numberKey, recovery := agreed(voucher, public(inviter), public(acceptor), b.hex("answer"), b.hex("contribution"), b.hex("reply secret"))
		return map[string]string{
			"voucher":     hex.EncodeToString(voucher),
			"payload id":  hex.EncodeToString(kdf(voucher, nil, "tarn/1 invitation id", 16)),
			"payload key": hex.EncodeToString(kdf(voucher, nil, "tarn/1 invitation key", 32)),
			"reply id":    hex.EncodeToString(kdf(b.hex("reply secret"), voucher, "tarn/1 reply id", 16)),
			"reply key":   hex.EncodeToString(kdf(b.hex("reply secret"), voucher, "tarn/1 reply key", 32)),
			"root":        hex.EncodeToString(root),
			"number key":  hex.EncodeToString(numberKey),
			"number":      numberOf(numberKey, b.hex("nonce")),

			"recovery secret": hex.EncodeToString(recovery),
		}
	},
}

// tokenOf is SPEC §11.1, for a batch of one, from the group up: what is blinded, and the token.
func tokenOf(keySeed, secret []byte) (public, inputSeed, blinded, token []byte) {
	g := group.Ristretto255
	must := func(b []byte, err error) []byte {
		if err != nil {
			panic(err)
		}
		return b
	}
	dst := "OPRFV1-\x01-ristretto255-SHA512"
	key, err := oprf.DeriveKey(oprf.SuiteRistretto255, oprf.VerifiableMode, keySeed, []byte("tarn/1 token key"))
	if err != nil {
		panic(err)
	}
	k := g.NewScalar()
	if err := k.UnmarshalBinary(must(key.MarshalBinary())); err != nil {
		panic(err)
	}
	inputSeed = mac(secret, []byte("tarn/1 token inputs"), u32(0))
	input := mac(inputSeed, []byte("tarn/1 token input"), u32(0))
	point := g.HashToElement(input, []byte("HashToGroup-"+dst))
	blind := g.HashToScalar(mac(secret, []byte("tarn/1 token blind"), u32(0)), []byte("tarn/1 token blind"))
	n := must(g.NewElement().Mul(point, k).MarshalBinaryCompress())
	output := sha512.Sum512(cat(u16(len(input)), input, u16(len(n)), n, []byte("Finalize")))
	return must(g.NewElement().MulGen(k).MarshalBinaryCompress()), inputSeed, must(g.NewElement().Mul(point, blind).MarshalBinaryCompress()), cat(input, output[:])
}

var vectorBlock = regexp.MustCompile("(?ms)^```vector ([a-z ]+)\n(.*?)^```$")

// TestVectorsOfTheSpec computes every vector in SPEC.md again. TARN_UPDATE=1 writes them.
func TestVectorsOfTheSpec(t *testing.T) {
	text, err := os.ReadFile("SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	fresh := vectorBlock.ReplaceAllStringFunc(string(text), func(whole string) string {
		m := vectorBlock.FindStringSubmatch(whole)
		name, b := m[1], block{}
		for _, line := range strings.Split(strings.TrimSpace(m[2]), "\n") {
			k, v, ok := strings.Cut(line, "=")
			if !ok {
				t.Errorf("vector %s: %q is no key and value", name, line)
			}
			b[strings.TrimSpace(k)] = strings.TrimSpace(v)
		}
		compute := vectors[name]
		if compute == nil || found[name] {
			t.Errorf("vector %s: unknown, or there twice", name)
			return whole
		}
		found[name] = true
		for k, want := range compute(b) {
			if b[k] == want {
				continue
			}
			if os.Getenv("TARN_UPDATE") == "" {
				t.Errorf("vector %s: %s is %q, computed %q", name, k, b[k], want)
			}
			line := regexp.MustCompile("(?m)^" + regexp.QuoteMeta(k) + "( *)= .*$")
			if !line.MatchString(whole) {
				t.Errorf("vector %s has no line for %s", name, k)
			}
			whole = line.ReplaceAllString(whole, k+"${1}= "+want)
		}
		return whole
	})
	for name := range vectors {
		if !found[name] {
			t.Errorf("SPEC.md has no vector %q", name)
		}
	}
	if os.Getenv("TARN_UPDATE") != "" && fresh != string(text) {
		if err := os.WriteFile("SPEC.md", []byte(fresh), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// decodeFile reads a package's checked-in vectors.
func decodeFile(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// TestCheckedInVectors computes those of the packages' files again that SPEC.md's chapter 10 promises for names,
// certificates, streams and first contacts.
func TestCheckedInVectors(t *testing.T) {
	var names []block
	decodeFile(t, "../crypto/onionid/testdata/vectors.json", &names)
	for _, v := range names {
		got := vectors["onionid"](block{"onion seed": v["onion_seed"], "signing seed": v["signing_seed"]})
		if got["name"] != v["name"] || got["certificate"] != v["certificate"] || got["key id"] != v["key_id"] {
			t.Errorf("onionid: %v, want %v", got, v)
		}
	}

	var ratchets struct {
		Streams []struct {
			Root, Plaintext string
			Epoch           uint32
			Initiator       bool
			Slots           []struct {
				Index        uint64
				ID, Key, Box string
			}
		}
		Turns []struct {
			Seed, Carry, Public, Ciphertext, Shared, Root string
			Epoch                                         uint32
			InitiatorOffers                               bool   `json:"initiator_offers"`
			RecoveryRoot                                  string `json:"recovery_root"`
		}
	}
	decodeFile(t, "../crypto/ratchet/testdata/vectors.json", &ratchets)
	if len(ratchets.Turns) == 0 {
		t.Error("ratchet: no turn")
	}
	for _, v := range ratchets.Turns {
		unhex := func(s string) []byte { return block{"": s}.hex("") }
		shared := decapsulate(t, unhex(v.Seed), unhex(v.Ciphertext), v.Epoch)
		for what, c := range map[string]struct{ got, want []byte }{
			"shared secret": {shared, unhex(v.Shared)},
			"root":          {turnedRoot("turn", "root", unhex(v.Carry), shared, v.Epoch, v.InitiatorOffers, unhex(v.Public), unhex(v.Ciphertext)), unhex(v.Root)},
			"recovery":      {turnedRoot("recovery", "recovery root", unhex(v.Carry), shared, v.Epoch, v.InitiatorOffers, unhex(v.Public), unhex(v.Ciphertext)), unhex(v.RecoveryRoot)},
		} {
			if !bytes.Equal(c.got, c.want) {
				t.Errorf("ratchet: %s of a turn to epoch %d", what, v.Epoch)
			}
		}
	}
	slots := 0
	for _, v := range ratchets.Streams {
		sender := "responder"
		if v.Initiator {
			sender = "initiator"
		}
		for _, s := range v.Slots {
			slots++
			got := vectors["ratchet"](block{"root": v.Root, "epoch": fmt.Sprint(v.Epoch), "sender": sender, "index": fmt.Sprint(s.Index),
				"payload": hex.EncodeToString([]byte(v.Plaintext))})
			if got["id"] != s.ID || got["key"] != s.Key || got["box"] != s.Box {
				t.Errorf("ratchet: epoch %d, %s, index %d: %v, want %v", v.Epoch, sender, s.Index, got, s)
			}
		}
	}

	var v block
	decodeFile(t, "../replicate/testdata/vectors.json", &v)
	voucher := sum256(v.hex("payload"))
	inviter, acceptor := public(v.key("inviter onion seed")), public(v.key("acceptor onion seed"))
	root, numberKey, recovery := agreed(voucher, inviter, acceptor, v.hex("answer"), v.hex("contribution"), v.hex("reply secret"))
	id, key := kdf(voucher, nil, "tarn/1 invitation id", 16), kdf(voucher, nil, "tarn/1 invitation key", 32)
	plain := make([]byte, 8192)
	copy(plain, cat(u16(len(v.hex("payload"))), v.hex("payload")))
	link, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimPrefix(v["link"], "tarn:"))
	if err != nil || len(link) != 77 {
		t.Fatalf("the link has %d bytes: %v", len(link), err)
	}
	for k, got := range map[string][]byte{
		"voucher": voucher, "invitation id": id, "invitation key": key, "invitation box SHA-256": sum256(sealZero(key, plain, id)),
		"reply id":  kdf(v.hex("reply secret"), voucher, "tarn/1 reply id", 16),
		"reply key": kdf(v.hex("reply secret"), voucher, "tarn/1 reply key", 32),
		"root":      root, "number key": numberKey, "recovery secret": recovery,
		"recovery id (initiator, 20000, 1)":  kdf(recovery, nil, "tarn/1 recovery id\x01\x00\x00\x4e\x20\x01", 16),
		"recovery key (initiator, 20000, 1)": kdf(recovery, nil, "tarn/1 recovery key\x01\x00\x00\x4e\x20\x01", 32),
	} {
		if v[k] != hex.EncodeToString(got) {
			t.Errorf("replicate: %s is %s, computed %x", k, v[k], got)
		}
	}
	if got := numberOf(numberKey, v.hex("nonce")); v["number"] != got {
		t.Errorf("replicate: the number is %s, computed %s", v["number"], got)
	}
	if got := linkOf(link[1:33], voucher, binary.BigEndian.Uint64(link[65:73])); v["link"] != got {
		t.Errorf("replicate: the link is %s, computed %s", v["link"], got)
	}
	if len(names) < 3 || slots < 4 {
		t.Errorf("%d names, %d slots", len(names), slots)
	}
}
