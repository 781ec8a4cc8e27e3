// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"reflect"
	"testing"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/matrix"
)

// TestVectors reads testdata/vectors.json, which testdata/vectors.py made without any of our code.
func TestVectors(t *testing.T) {
	var v struct {
		Records map[Type]string
		Older   struct{ Ask, Answer string } // an ask and an answer of the kinds for a room's past
		Bundles []struct {
			Name, Bundle string
			Pieces       int
		}
	}
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	certificate := make([]byte, 129)
	for i := range certificate {
		certificate[i] = byte(i)
	}
	const room = matrix.RoomID("!kEr0jYqGwBCcuoQ7ubnUcUDHk7Ul6lQa6iIEVh0bAYM")
	ids := []matrix.EventID{"$first", "$second"}
	raws := [][]byte{[]byte(`{"type":"m.room.create"}`), []byte(`{"type":"m.room.member"}`)}
	records := map[Type]coder{
		TypeEvents:   Events{Room: room, Version: "12", Raw: raws},
		TypeSnapshot: Snapshot{Room: room, Version: "12", Event: "$second", Heads: ids, Events: raws, State: ids[:1], Certificates: [][]byte{certificate}},
		TypeWant:     Want{Room: room, Events: ids},
		TypeHeads:    Heads{Room: room, Heads: ids},
		TypeReceipts: Receipts{Room: room, Receipts: []Receipt{{User: "@bob:example", Event: "$first", Type: "m.read", Thread: "main", Time: time.UnixMilli(1764000000000)}}},
		TypeContact:  Contact{Serial: 300, Stores: []mailbox.Address{mustAddress(t, storeAddresses[0])}, Name: "Bob's node", Profile: "balanced"},
		TypeWitness: Witness{Store: mustAddress(t, storeAddresses[0]), Claims: []mailbox.Claim{{Kind: 1, Epoch: 20000, Hash: [32]byte(certificate[:32])}},
			Spans: []SpanHash{{300000, [32]byte(certificate[32:64])}}},
		TypeTestimony: Testimony{mustAddress(t, storeAddresses[0]), mailbox.Testimony{Descriptor: raws[0], Pages: raws}},
		TypeDevices: Devices{User: "@bob:example", Serial: 1764000000000, Master: []byte(`{"c":3}`),
			Devices: []Device{{ID: "PHONE", Keys: []byte(`{"a":1}`), Fallback: []NamedKey{{"signed_curve25519:AAAB", []byte(`{"b":2}`)}}}}},
		TypeOneTimeKeys: OneTimeKeys{"@bob:example", "PHONE", 1764000000001, []NamedKey{{"signed_curve25519:AAAC", []byte(`{"d":4}`)}}},
		TypeKeysWanted:  KeysWanted{"@bob:example", "PHONE", 1764000000001, "signed_curve25519:AAAB"},
		TypeMessage: Message{Number: 1764000000003, Previous: 1764000000002, Sender: "@alice:example", User: "@bob:example", Device: "*",
			Type: "m.room.encrypted", Content: []byte(`{"e":5}`)},
		TypeSources: Sources{Serial: 1764000000004, Servers: []onionid.Name{mustAddress(t, storeAddresses[0]).Onion, mustAddress(t, storeAddresses[1]).Onion}},
		TypeSigns: Signs{1764000000005, time.UnixMilli(1764000600000), []Present{{"@bob:example", Online, time.UnixMilli(1764000000000), "at lunch"}},
			[]Typist{{room, "@bob:example", time.UnixMilli(1764000030000)}}},
		TypeAsk:         Ask{ID: [16]byte(certificate[:16]), Kind: AskJoin, Room: room, User: "@bob:example"},
		TypeMediaWanted: MediaWanted{MediaName{ID: [16]byte(certificate[:16])}, 3, 200, 8 << 20},
		TypeMedia:       Media{MediaName{[16]byte(certificate[:16]), true}, certificate[:32:32], 30000, "image/png", "cat.png"},
		TypeMediaPart:   MediaBytes{MediaName{ID: [16]byte(certificate[:16])}, 300, []byte("some bytes")},
		TypeAnswer: Answer{ID: [16]byte(certificate[:16]), Kind: AnswerTemplate, Template: Template{Version: "12", Depth: 300, PrevEvents: ids,
			AuthEvents: ids[:1], Authoriser: "@alice:example", Stripped: raws[:1]}},
	}
	var link [LinkSize]byte
	copy(link[:], certificate)
	records[TypeIntroduce] = Introduce{mustAddress(t, storeAddresses[0]).Onion, link}
	records[TypeIntroduced] = Introduced{mustAddress(t, storeAddresses[1]).Onion, link}
	older := Older{Events: raws, Unshown: ids[1:], States: []OlderState{{Event: "$first", Come: ids}, {Event: "$second", Come: ids[1:], Gone: ids[:1]}}, Leaned: raws[:1], Certificates: [][]byte{certificate}}
	for want, c := range map[string]coder{
		v.Older.Ask:    Ask{ID: [16]byte(certificate[:16]), Kind: AskOlder, Room: room, Missing: ids, Have: ids[:1], Most: 200},
		v.Older.Answer: Answer{ID: [16]byte(certificate[:16]), Kind: AnswerOlder, Older: older},
	} {
		r, err := c.Record()
		if err != nil || hex.EncodeToString(r.Data) != want {
			t.Errorf("%x (%v), not %s", r.Data, err, want)
		}
		if got, err := parsers[r.Type](r.Data); err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("%#v, %v", got, err)
		}
	}
	wire := map[Type][]byte{TypeCertificate: certificate}
	if v.Records[TypeCertificate] != hex.EncodeToString(certificate) {
		t.Errorf("a certificate is not the record's bytes: %s", v.Records[TypeCertificate])
	}
	for typ, c := range records {
		r, err := c.Record()
		if err != nil || r.Type != typ || hex.EncodeToString(r.Data) != v.Records[typ] {
			t.Errorf("type %d: %x (%v), not %s", typ, r.Data, err, v.Records[typ])
		}
		wire[typ] = r.Data
		if got, err := parsers[typ](r.Data); err != nil || !reflect.DeepEqual(got, c) {
			t.Errorf("type %d: %#v, %v", typ, got, err)
		}
	}
	if len(v.Bundles) != 4 {
		t.Fatalf("%d bundles", len(v.Bundles))
	}
	for i, c := range v.Bundles {
		short, err := hex.DecodeString(c.Bundle)
		if err != nil {
			t.Fatal(err)
		}
		box := append(short, make([]byte, Size-len(short))...)
		head, fs, err := Unpack(box)
		if err != nil || len(fs) != c.Pieces {
			t.Errorf("%s: %d pieces, %v", c.Name, len(fs), err)
			continue
		}
		for _, f := range fs {
			if f.Count == 1 && !bytes.Equal(f.Data, wire[f.Type]) {
				t.Errorf("%s: type %d is %x", c.Name, f.Type, f.Data)
			}
		}
		if i == 3 {
			before := Before{Ack: Ack{Epoch: 6, Next: 12}, Floor: Floor{5, 70}, Count: 71}
			before.Ack.Seen[0] = 2
			if head.Before == nil || *head.Before != before || len(head.KEM) != 1216 {
				t.Errorf("%s: head %+v", c.Name, head)
			}
		}
		if i > 1 {
			continue
		}
		want := Ack{Epoch: 7, Next: 1000}
		want.Seen[0], want.Seen[31] = 6, 0x80
		if ack := head.Ack; ack != want || head.Floor != (Floor{7, 900}) || !ack.Has(1001) || !ack.Has(1002) || ack.Has(1003) || !ack.Has(1255) {
			t.Errorf("%s: head %+v", c.Name, head)
		}
		p := NewPacker(head) // uncompressed bundles have one form
		for _, f := range fs {
			p.AddFragment(f)
		}
		if !bytes.Equal(p.Pack(), box) {
			t.Errorf("%s: we write it otherwise", c.Name)
		}
		if i == 1 {
			if f := fs[1]; f.Type != TypeSnapshot || f.Index != 130 || f.Count != 300 || f.ID[0] != 0x10 || string(f.Data) != "a part of it" {
				t.Errorf("%s: %+v", c.Name, f)
			}
		}
	}
}
