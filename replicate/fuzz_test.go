// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"testing"
	"time"

	"tarn/bundle"
	"tarn/crypto/onionid"
	"tarn/crypto/ratchet"
	"tarn/crypto/sealed"
	"tarn/mailbox"
)

func testIdentity(n byte) Identity {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, 32))
	signing := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n | 0x40}, 32))
	c := onionid.Certify(key, signing.Public().(ed25519.PublicKey))
	return Identity{key, c.Server, c}
}

func testRecovery(n byte) *sealed.PrivateKey {
	key, err := sealed.ParsePrivateKey(bytes.Repeat([]byte{n}, sealed.PrivateKeySize))
	if err != nil {
		panic(err)
	}
	return key
}

func testPayload(t testing.TB) ([]byte, *sealed.PrivateKey) {
	key, err := sealed.ParsePrivateKey(bytes.Repeat([]byte{7}, sealed.PrivateKeySize))
	if err != nil {
		t.Fatal(err)
	}
	id := testIdentity(1)
	p := payload{name: id.Name, expiry: time.Unix(1_900_000_000, 0), promise: promiseOf([32]byte{1}), replySecret: [32]byte{2},
		key: key.Public().Bytes(), recovery: testRecovery(8).Public().Bytes(), certificate: id.Certificate, stores: []mailbox.Address{{Onion: testIdentity(9).Name}}}
	return p.marshal(id.Key), key
}

func testReply() []byte {
	id := testIdentity(2)
	r := reply{name: id.Name, contribution: [32]byte{3}, recovery: testRecovery(9).Public().Bytes(), certificate: id.Certificate, stores: []mailbox.Address{{Onion: testIdentity(9).Name}}}
	return r.marshal(id.Key, [32]byte{5})
}

func FuzzParseLink(f *testing.F) {
	l := Link{Store: mailbox.Address{Onion: testIdentity(9).Name}, Voucher: sha256.Sum256([]byte("x")), Expiry: time.Unix(1_900_000_000, 0)}
	f.Add(l.String())
	f.Add(" " + l.String() + "\n")
	f.Add("tarn:")
	f.Add("tarn:AAAA")
	f.Add(l.String()[:50])
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLink(s)
		if err != nil {
			return
		}
		m, err := ParseLink(l.String())
		if err != nil || m.Store != l.Store || m.Voucher != l.Voucher || !m.Expiry.Equal(l.Expiry) {
			t.Errorf("%q comes back as %+v, %v", s, m, err)
		}
	})
}

func TestAnyChangedCharacterBreaksALink(t *testing.T) {
	l := Link{Store: mailbox.Address{Onion: testIdentity(9).Name}, Voucher: sha256.Sum256([]byte("x")), Expiry: time.Unix(1_900_000_000, 0)}
	s := l.String()
	t.Logf("%d characters", len(s))
	if len(s) > 120 {
		t.Errorf("a link of %d characters", len(s))
	}
	for i := range s {
		for _, c := range []byte("A0_z") {
			b := []byte(s)
			if b[i] == c {
				continue
			}
			b[i] = c
			if _, err := ParseLink(string(b)); err == nil {
				t.Fatalf("character %d changed to %q is accepted", i, c)
			}
		}
		if _, err := ParseLink(s[:i]); err == nil {
			t.Fatalf("the first %d characters are accepted", i)
		}
	}
}

func FuzzParsePayload(f *testing.F) {
	b, _ := testPayload(f)
	f.Add(b)
	f.Add(b[:100])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parsePayload(b); err == nil && (len(p.stores) == 0 || p.certificate.Server != p.name) {
			t.Error("a payload without stores, or with another's certificate")
		}
	})
}

func FuzzParseReply(f *testing.F) {
	b := testReply()
	f.Add(b)
	f.Add(b[:40])
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parseReply(b, [32]byte{5}); err == nil && p.certificate.Server != p.name {
			t.Error("a reply with another's certificate")
		}
	})
}

func TestPayloadAndReplyAreBoundToTheirMakers(t *testing.T) {
	b, _ := testPayload(t)
	if _, err := parsePayload(b); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		c := bytes.Clone(b)
		c[i] ^= 1
		if _, err := parsePayload(c); err == nil {
			t.Fatalf("bit 0 of byte %d of a payload can be changed", i)
		}
	}
	r := testReply()
	if _, err := parseReply(r, [32]byte{5}); err != nil {
		t.Fatal(err)
	}
	if _, err := parseReply(r, [32]byte{6}); err == nil {
		t.Error("a reply to another link is accepted")
	}
	for i := range r {
		c := bytes.Clone(r)
		c[i] ^= 1
		if _, err := parseReply(c, [32]byte{5}); err == nil {
			t.Fatalf("bit 0 of byte %d of a reply can be changed", i)
		}
	}
}

// FuzzParseRows feeds every row parser, and checks that what is read is written the same again.
func FuzzParseRows(f *testing.F) {
	now := time.UnixMilli(1_800_000_000_123)
	st := []mailbox.Address{{Onion: testIdentity(9).Name}}
	c := contactRow{state: contactActive, initiator: true, created: now, lastHeard: now, stores: st, told: st, serial: 3, peerNext: 9, number: "123 456", peerKey: testRecovery(9).Public().Bytes(), recovered: now, rescued: 7}
	b := box{id: mailbox.BoxID{1}, created: now, eliciting: true, carried: []uint64{1, 2, 3}}
	p := piece{Fragment: bundle.Fragment{Type: 1, ID: [16]byte{1}, Index: 1, Count: 3, Data: []byte("x")}, received: now}
	in := inboxRow{received: now, kind: 1, data: []byte("data")}
	w := want{wantKey: wantKey{"!r:x", "$e"}}
	td := todo{listed: now}
	_, key := testPayload(f)
	iv := invite{created: now, expiry: now, store: st[0], key: key, recovery: testRecovery(8), payload: []byte("payload")}
	ac := accept{state: acceptReplying, link: Link{Store: st[0], Expiry: now}, created: now, name: st[0].Onion, stores: st, sealedAt: now, reply: make([]byte, mailbox.BoxSize)}
	s := ratchet.NewPair(ratchet.Root{1}, 0, true, now)
	for kind, row := range [][]byte{c.marshal(), b.marshal(), p.marshal(), in.marshal(), w.marshal(), td.marshal(), iv.marshal(), ac.marshal(),
		streamsRow(s, [32]byte{3}), marshalFragment(p.Fragment)} {
		f.Add(byte(kind), row)
	}
	f.Fuzz(func(t *testing.T, kind byte, row []byte) {
		var again []byte
		var err error
		switch kind % 10 {
		case 0:
			var x contactRow
			if x, err = parseContact(row); err == nil {
				again = x.marshal()
			}
		case 1:
			var x *box
			if x, err = parseBox(row); err == nil {
				again = x.marshal()
			}
		case 2:
			var x piece
			if x, err = parsePiece(row); err == nil {
				again = x.marshal()
			}
		case 3:
			var x inboxRow
			if x, err = parseInbox(row); err == nil {
				again = x.marshal()
			}
		case 4:
			var x *want
			if x, err = parseWant(row); err == nil {
				again = x.marshal()
			}
		case 5:
			var x *todo
			if x, err = parseTodo(row); err == nil {
				again = x.marshal()
			}
		case 6:
			var x *invite
			if x, err = parseInvite([32]byte{}, row); err == nil {
				again = x.marshal()
			}
		case 7:
			var x *accept
			if x, err = parseAccept([32]byte{}, row); err == nil {
				again = x.marshal()
			}
		case 8:
			var x ratchet.Pair
			var ack [32]byte
			if x, ack, err = parseStreams(row); err == nil {
				again = streamsRow(x, ack)
			}
		case 9:
			var x bundle.Fragment
			if x, err = parseFragment(row); err == nil {
				again = marshalFragment(x)
			}
		}
		if err == nil && !bytes.Equal(again, row) {
			t.Errorf("kind %d: %x is read and written as %x", kind%10, row, again)
		}
	})
}

func FuzzOpenPlace(f *testing.F) {
	at := payloadPlace([32]byte{1})
	box, err := at.seal([]byte("content"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(box[:], []byte("content"))
	f.Fuzz(func(t *testing.T, b, content []byte) {
		if len(b) == mailbox.BoxSize && !bytes.Equal(b, box[:]) {
			if _, err := at.open((*[mailbox.BoxSize]byte)(b)); err == nil {
				t.Error("a forged box opens")
			}
		}
		bx, err := at.seal(content)
		if len(content) > mailbox.PayloadSize-2 {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if got, err := at.open(bx); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%v, %d bytes of %d", err, len(got), len(content))
		}
	})
}
