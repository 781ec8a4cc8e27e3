// SPDX-License-Identifier: Apache-2.0

package docs_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/chacha20poly1305"

	"tarn/mailbox"
)

// second is a node written from SPEC.md: it shares no code with Tarn but the connection to the test's mailbox. It has no
// schedule: it is there for the bytes.
type second struct {
	t       *testing.T
	dialer  mailbox.Dialer
	onion   ed25519.PrivateKey
	signing ed25519.PrivateKey

	store   []byte // the mailbox's onion key
	epoch   uint32
	request hpke.PublicKey
	bucket  uint64 // ms
	digests ed25519.PublicKey

	out, in *chain
	opened  uint64 // boxes of the other side, all below
	nonce   []byte
	number  []byte // number key
	promise []byte
}

func (s *second) must(ok bool, what string) {
	s.t.Helper()
	if !ok {
		s.t.Fatal(what)
	}
}

func (s *second) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// reader takes bytes apart by SPEC §1.1.
type reader struct {
	t *testing.T
	b []byte
}

func (r *reader) take(n int) []byte {
	r.t.Helper()
	if n < 0 || n > len(r.b) {
		r.t.Fatalf("%d bytes wanted, %d are there", n, len(r.b))
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uvarint() uint64 {
	r.t.Helper()
	v, n := binary.Uvarint(r.b)
	if n <= 0 || n > 1 && r.b[n-1] == 0 {
		r.t.Fatal("not a uvarint in its shortest form")
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) str() []byte { r.t.Helper(); return r.take(int(r.uvarint())) }

func (r *reader) list() (out [][]byte) {
	r.t.Helper()
	for n := r.uvarint(); n > 0; n-- {
		out = append(out, r.str())
	}
	return out
}

func (r *reader) end() {
	r.t.Helper()
	if len(bytes.Trim(r.b, "\x00")) != 0 {
		r.t.Fatal("something is left over")
	}
}

// transact is SPEC §4.1.
func (s *second) transact(up []byte) []byte {
	s.t.Helper()
	s.must(len(up) == 10956, "up")
	c, err := s.dialer.Dial(context.Background(), nameOf(s.store)+":4001", rand.Text())
	s.check(err)
	defer c.Close()
	_, err = c.Write(up)
	s.check(err)
	down, err := io.ReadAll(c)
	s.check(err)
	s.must(len(down) == 8466, "down")
	return down
}

// descriptor is SPEC §4.5.
func (s *second) descriptor() {
	s.t.Helper()
	up := make([]byte, 10956)
	rand.Read(up[8:])
	copy(up, []byte{1, 1, 0, 0, 0, 0, 0, 0})
	down := s.transact(up)
	s.must(down[0] == 1, "not a descriptor")
	n := int(down[115])
	end := 116 - 1 + n*1220
	s.must(down[1+end] == 0, "the mailbox wants tokens")
	end += 12 + 32*int(down[1+end+11])
	end += 1 + 32*int(down[1+end])
	body, sig := down[1:1+end], down[1+end:1+end+64]
	s.must(ed25519.Verify(s.store, cat([]byte("tarn/1 mailbox descriptor\x00"), body), sig), "the onion key did not sign the descriptor")
	r := &reader{s.t, body}
	s.must(r.take(1)[0] == 1 && bytes.Equal(r.take(32), s.store), "geometry or onion")
	s.must(r.take(1)[0]&1 == 1, "no store")
	r.take(32) // family
	s.bucket = binary.BigEndian.Uint64(r.take(8))
	s.must(binary.BigEndian.Uint64(r.take(8)) >= s.bucket, "ttl")
	s.digests = r.take(32)
	r.take(1)
	today := uint32(time.Now().Unix() / 86400)
	for range n {
		epoch, key := binary.BigEndian.Uint32(r.take(4)), r.take(1216)
		if epoch == today {
			pub, err := hpke.MLKEM768X25519().NewPublicKey(key)
			s.check(err)
			s.epoch, s.request = epoch, pub
		}
	}
	s.must(s.request != nil && s.epoch == today, "no key of today")
}

// ask is SPEC §4.2 to §4.4.
func (s *second) ask(op byte, rest ...[]byte) (status byte, body []byte) {
	s.t.Helper()
	if s.request == nil || s.epoch != uint32(time.Now().Unix()/86400) {
		s.request = nil
		s.descriptor()
	}
	plain := make([]byte, 9812)
	plain[0] = op
	copy(plain[97:], cat(rest...))
	info := cat([]byte("tarn/1 store request\x00"), s.store, u32(s.epoch))
	enc, sender, err := hpke.NewSender(s.request, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), info)
	s.check(err)
	ct, err := sender.Seal(nil, plain)
	s.check(err)
	key, err := sender.Export("tarn/1 reply", 32)
	s.check(err)
	down := s.transact(cat([]byte{1, 2, 0, 0}, u32(s.epoch), enc, ct))
	s.must(down[0] == 0, "the answer is not sealed")
	a, err := chacha20poly1305.NewX(key)
	s.check(err)
	plain, err = a.Open(nil, down[1:25], down[25:], nil)
	s.check(err)
	s.must(len(plain) == 8425, "answer")
	return plain[0], plain[1:]
}

func (s *second) put(id, box []byte) byte { s.t.Helper(); st, _ := s.ask(1, id, box); return st }

func (s *second) get(handle []byte) []byte {
	s.t.Helper()
	st, body := s.ask(2, handle)
	s.must(st == 0, "get")
	(&reader{s.t, body[8208:]}).end()
	return body[:8208]
}

// listed looks through the digest's pages from bucket i on (SPEC §4.6) for a handle, and says where the next look begins.
func (s *second) listed(handle []byte, i uint64) (found bool, next uint64) {
	s.t.Helper()
	for ; ; i++ {
		st, body := s.ask(3, []byte{0}, u64(i), u16(0))
		if st == 4 {
			return false, i // not closed yet
		}
		s.must(st == 0, "digest")
		s.must(binary.BigEndian.Uint64(body) > i, "closed is no news")
		body = body[8:]
		r := &reader{s.t, body}
		s.must(r.take(1)[0] == 0 && binary.BigEndian.Uint64(r.take(8)) == i && binary.BigEndian.Uint16(r.take(2)) == 0, "another page")
		s.must(binary.BigEndian.Uint16(r.take(2)) == 1, "more parts than the test can have")
		n := int(binary.BigEndian.Uint16(r.take(2)))
		part := body[:15+8*n]
		for range n {
			found = found || bytes.Equal(r.take(8), handle)
		}
		if n == 0 {
			s.must(len(part) == 15, "an empty part")
		}
		s.must(ed25519.Verify(s.digests, cat([]byte("tarn/1 digest page\x00"), s.store, u64(s.bucket), part), r.take(64)), "the digest is not signed")
		r.end()
		if found {
			return true, i
		}
	}
}

// firstContactBox is SPEC §7.2.
func (s *second) openFirst(key, id, box []byte) ([]byte, bool) {
	s.t.Helper()
	plain, err := openZero(key, box, id)
	if err != nil {
		return nil, false
	}
	r := &reader{s.t, plain[2+binary.BigEndian.Uint16(plain):]}
	r.end()
	return plain[2 : 2+binary.BigEndian.Uint16(plain)], true
}

// accept is SPEC §7.1 to §7.3 on the acceptor's side.
func (s *second) accept(link string) {
	s.t.Helper()
	b, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimPrefix(link, "tarn:"))
	s.check(err)
	r := &reader{s.t, b}
	s.must(len(link) == 108 && r.take(1)[0] == 1, "link")
	s.store = r.take(32)
	voucher, expiry := r.take(32), binary.BigEndian.Uint64(r.take(8))
	s.must(bytes.Equal(r.take(4), sum256([]byte("tarn/1 link"), b[:73])[:4]), "check")

	id, key := kdf(voucher, nil, "tarn/1 invitation id", 16), kdf(voucher, nil, "tarn/1 invitation key", 32)
	var payload []byte
	for end := time.Now().Add(time.Hour); ; time.Sleep(time.Minute) {
		var ok bool
		if payload, ok = s.openFirst(key, id, s.get(id[:8])); ok {
			break
		}
		s.must(time.Now().Before(end), "no payload within an hour")
	}
	s.must(bytes.Equal(sum256(payload), voucher), "the payload is not the voucher's")
	body, sig := payload[:len(payload)-64], payload[len(payload)-64:]
	r = &reader{s.t, body}
	s.must(r.take(1)[0] == 1, "payload version")
	inviter := r.take(32)
	s.must(ed25519.Verify(inviter, cat([]byte("tarn/1 invitation\x00"), body), sig), "the payload's signature")
	s.must(r.uvarint() == expiry, "expiry")
	s.promise = r.take(32)
	replySecret := r.take(32)
	hybrid, err := hpke.MLKEM768X25519().NewPublicKey(r.take(1216))
	s.check(err)
	_, err = hpke.MLKEM768X25519().NewPublicKey(r.take(1216)) // for recoveries
	s.check(err)
	s.certificateOf(inviter, r.str())
	stores := r.list()
	s.must(len(stores) == 1 && string(stores[0]) == nameOf(s.store), "stores")
	r.end()

	contribution := make([]byte, 32)
	rand.Read(contribution)
	rescue, err := hpke.MLKEM768X25519().GenerateKey()
	s.check(err)
	reply := cat([]byte{1}, public(s.onion), contribution, rescue.PublicKey().Bytes(), str(string(certify(s.onion, public(s.signing)))), list(nameOf(s.store)))
	reply = cat(reply, ed25519.Sign(s.onion, cat([]byte("tarn/1 reply\x00"), voucher, reply)))
	answer, err := hpke.Seal(hybrid, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), cat([]byte("tarn/1 reply\x00"), voucher), reply)
	s.check(err)
	plain := make([]byte, 8192)
	copy(plain, cat(u16(len(answer)), answer))
	id, key = kdf(replySecret, voucher, "tarn/1 reply id", 16), kdf(replySecret, voucher, "tarn/1 reply key", 32)
	box := sealZero(key, plain, id)
	for range 2 {
		s.must(s.put(id, box) == 0, "the reply, twice the same")
	}
	box[0] ^= 1
	s.must(s.put(id, box) == 1, "another box under the reply's id")
	root, number, _ := agreed(voucher, inviter, public(s.onion), answer, contribution, replySecret)
	s.number = number
	s.out, s.in = newChain(root, "responder", 0), newChain(root, "initiator", 0)
}

// certificateOf checks a certificate by SPEC §2.2 (but for the order of its keys) and gives the signing key.
func (s *second) certificateOf(onion, b []byte) []byte {
	s.t.Helper()
	s.must(len(b) == 129 && b[0] == 1 && bytes.Equal(b[1:33], onion) && !bytes.Equal(b[33:65], onion), "certificate")
	s.must(ed25519.Verify(onion, cat([]byte("tarn/1 event-signing key\x00"), b[1:65]), b[65:]), "the certificate's signature")
	return b[33:65]
}

// send seals pieces into the next box and leaves it, by SPEC §5 and §6.
func (s *second) send(pieces ...[]byte) {
	s.t.Helper()
	payload := make([]byte, 8192)
	copy(payload, bundleOf(0, s.opened, make([]byte, 32), s.out.index, cat(pieces...)))
	id, key, ad := s.out.next()
	s.must(s.put(id, sealZero(key, payload, ad)) == 0, "put")
}

// record is a whole record.
type record struct {
	kind byte
	data []byte
}

// receive waits for the next box and gives its acknowledgement and records.
func (s *second) receive(since time.Time) (next uint64, out []record) {
	s.t.Helper()
	id, key, ad := s.in.next()
	at, found := uint64(since.UnixMilli())/s.bucket, false
	for end := time.Now().Add(6 * time.Hour); ; time.Sleep(time.Minute) {
		if found, at = s.listed(id[:8], at); found {
			break
		}
		s.must(time.Now().Before(end), "no box within six hours")
	}
	payload, err := openZero(key, s.get(id[:8]), ad)
	s.check(err)
	s.opened++
	r := &reader{s.t, payload}
	s.must(r.take(1)[0] == 1 && r.take(1)[0] == 0, "version or flags")
	s.must(binary.BigEndian.Uint32(r.take(4)) == 0, "epoch")
	next = binary.BigEndian.Uint64(r.take(8))
	r.take(32)
	s.must(binary.BigEndian.Uint32(r.take(4)) == s.in.epoch && binary.BigEndian.Uint64(r.take(8)) < s.in.index, "a floor above its own box")
	zlen, ilen, rlen := int(binary.BigEndian.Uint16(r.take(2))), int(binary.BigEndian.Uint32(r.take(4))), int(binary.BigEndian.Uint16(r.take(2)))
	var pieces []byte
	if zlen > 0 {
		d, err := zstd.NewReader(nil)
		s.check(err)
		defer d.Close()
		pieces, err = d.DecodeAll(r.take(zlen), nil)
		s.check(err)
	}
	s.must(len(pieces) == ilen, "ilen")
	pieces = append(pieces, r.take(rlen)...)
	r.end()
	for p := (&reader{s.t, pieces}); len(p.b) > 0; {
		kind, n := p.take(1)[0], p.uvarint()
		s.must(n&1 == 0, "a fragment, which this test has no use for")
		out = append(out, record{kind, p.take(int(n >> 1))})
	}
	return next, out
}

// await receives until a record of that type comes.
func (s *second) await(kind byte, since time.Time) []byte {
	s.t.Helper()
	for {
		_, records := s.receive(since)
		for _, r := range records {
			if r.kind == 0x21 {
				s.must(len(r.data) == 32 && bytes.Equal(sum256([]byte("tarn/1 number nonce\x00"), r.data), s.promise), "the nonce is not what was promised")
				s.nonce = r.data
			}
		}
		if i := slices.IndexFunc(records, func(r record) bool { return r.kind == kind }); i >= 0 {
			return records[i].data
		}
	}
}
