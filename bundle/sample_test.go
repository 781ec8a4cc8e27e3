// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"tarn/matrix"
)

// sampler makes events with the shape and the entropy of real ones: hashes, signatures, ids and ciphertext are random,
// all else is what clients and servers write. Version 12, two servers, one room after another.
type sampler struct {
	*rand.ChaCha8
	servers [2]string
	room    string
	auth    []string
	prev    string
	depth   int
	now     int64
}

func newSampler(seed byte) *sampler {
	s := &sampler{ChaCha8: rand.NewChaCha8([32]byte{seed}), now: 1764000000000}
	for i := range s.servers {
		s.servers[i] = strings.ToLower(s.chars(56, "abcdefghijklmnopqrstuvwxyz234567")) + ".onion"
	}
	s.enter()
	return s
}

// enter begins another room.
func (s *sampler) enter() {
	s.room, s.prev, s.depth = "!"+s.hash(), "$"+s.hash(), 9
	s.auth = []string{"$" + s.hash(), "$" + s.hash()} // the power levels and the sender's join
}

func (s *sampler) bytes(n int) []byte {
	b := make([]byte, n)
	s.Read(b)
	return b
}

func (s *sampler) chars(n int, from string) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = from[s.Uint64()%uint64(len(from))]
	}
	return string(b)
}

func (s *sampler) hash() string { return base64.RawURLEncoding.EncodeToString(s.bytes(32)) }

// event wraps content.
func (s *sampler) event(typ string, content any) []byte {
	who := int(s.Uint64() % 2)
	s.depth++
	s.now += int64(s.Uint64() % 90000)
	c, err := json.Marshal(content)
	if err != nil {
		panic(err)
	}
	e := fmt.Sprintf(`{"auth_events":["%s","%s"],"content":%s,"depth":%d,"hashes":{"sha256":"%s"},"origin_server_ts":%d,"prev_events":["%s"],"room_id":"%s","sender":"@%s:%s","signatures":{"%s":{"ed25519:%s":"%s"}},"type":"%s"}`,
		s.auth[0], s.auth[1], c, s.depth, base64.RawStdEncoding.EncodeToString(s.bytes(32)), s.now, s.prev, s.room,
		[]string{"alice", "bob"}[who], s.servers[who], s.servers[who], []string{"JPbtasv_", "aB3dE9_x"}[who], base64.RawStdEncoding.EncodeToString(s.bytes(64)), typ)
	s.prev = "$" + s.hash()
	return []byte(e)
}

// message is an m.room.message of some fifty characters (about 715 bytes in all).
func (s *sampler) message() []byte {
	var text []string
	for range 6 + s.Uint64()%5 { // letters about as frequent as in English, but no known words
		text = append(text, s.chars(2+int(s.Uint64()%6), "eeeeeeettttttaaaaaoooooiiiinnnnsssshhhrrrdddlluucmwfgypbvk"))
	}
	return s.event("m.room.message", map[string]any{"body": strings.Join(text, " "), "m.mentions": map[string]any{}, "msgtype": "m.text"})
}

// encrypted is an m.room.encrypted (Megolm) of a short message (about 1,282 bytes in all).
func (s *sampler) encrypted() []byte {
	return s.event("m.room.encrypted", map[string]any{
		"algorithm":  "m.megolm.v1.aes-sha2",
		"ciphertext": base64.RawStdEncoding.EncodeToString(s.bytes(350)),
		"device_id":  "QRSTUVWXYZ",
		"sender_key": base64.RawStdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef")),
		"session_id": base64.RawStdEncoding.EncodeToString([]byte("fedcba9876543210fedcba9876543210")),
	})
}

// record is one event as a record.
func (s *sampler) record(tb testing.TB, raw []byte) Record {
	tb.Helper()
	r, err := Events{Room: matrix.RoomID(s.room), Version: "12", Raw: [][]byte{raw}}.Record()
	if err != nil {
		tb.Fatal(err)
	}
	return r
}
