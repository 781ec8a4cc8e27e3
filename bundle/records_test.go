// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/matrix"
)

// coder is a record type: something that encodes itself, and its decoder.
type coder interface{ Record() (Record, error) }

func parse[T coder](f func([]byte) (T, error)) func([]byte) (coder, error) {
	return func(b []byte) (coder, error) { return f(b) }
}

var parsers = map[Type]func([]byte) (coder, error){
	TypeEvents:      parse(ParseEvents),
	TypeSnapshot:    parse(ParseSnapshot),
	TypeWant:        parse(ParseWant),
	TypeHeads:       parse(ParseHeads),
	TypeReceipts:    parse(ParseReceipts),
	TypeContact:     parse(ParseContact),
	TypeWitness:     parse(ParseWitness),
	TypeTestimony:   parse(ParseTestimony),
	TypeDevices:     parse(ParseDevices),
	TypeOneTimeKeys: parse(ParseOneTimeKeys),
	TypeKeysWanted:  parse(ParseKeysWanted),
	TypeMessage:     parse(ParseMessage),
	TypeSources:     parse(ParseSources),
	TypeAsk:         parse(ParseAsk),
	TypeAnswer:      parse(ParseAnswer),
	TypeMediaWanted: parse(ParseMediaWanted),
	TypeMedia:       parse(ParseMedia),
	TypeMediaPart:   parse(ParseMediaBytes),
	TypeIntroduce:   parse(ParseIntroduce),
	TypeIntroduced:  parse(ParseIntroduced),
	TypeSigns:       parse(ParseSigns),
}

// Two store addresses of real keys (rend-spec-v3's examples).
var storeAddresses = []string{
	"tarn-mailbox:1:pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd",
	"tarn-mailbox:1:sp3k262uwy4r2k3ycr5awluarykdpag6a7y33jxop4cs2lu5uz5sseqd",
}

func mustAddress(tb interface{ Fatal(...any) }, s string) mailbox.Address {
	a, err := mailbox.ParseAddress(s)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// drawID draws an id with the sigil, of 2 to 255 bytes.
func drawID(t *rapid.T, sigil string) string {
	return sigil + rapid.StringMatching(`[ -~é漢]{1,84}`).Draw(t, "id")
}

func drawIDs(t *rapid.T) (ids []matrix.EventID) {
	for range rapid.IntRange(0, 30).Draw(t, "ids") {
		ids = append(ids, matrix.EventID(drawID(t, "$")))
	}
	return ids
}

func drawRaws(t *rapid.T, top int) (raws [][]byte) {
	for range rapid.IntRange(0, 9).Draw(t, "raws") {
		raws = append(raws, stuff(t, rapid.IntRange(1, top).Draw(t, "size"), "raw"))
	}
	return raws
}

func drawSerial(t *rapid.T) uint64 { return rapid.Uint64Range(1, 1<<63-1).Draw(t, "serial") }

func drawDevice(t *rapid.T) matrix.DeviceID {
	return matrix.DeviceID(rapid.StringMatching(`[ -~é漢]{1,84}`).Draw(t, "device"))
}

func drawKeys(t *rapid.T, top int) (keys []NamedKey) {
	for range rapid.IntRange(0, top).Draw(t, "keys") {
		keys = append(keys, NamedKey{rapid.StringMatching(`[a-z0-9_]{1,20}:[A-Za-z]{1,20}`).Draw(t, "name"), stuff(t, rapid.IntRange(1, 2000).Draw(t, "size"), "key")})
	}
	return keys
}

func drawRecord(t *rapid.T) coder {
	room, version := matrix.RoomID(drawID(t, "!")), matrix.RoomVersion(rapid.StringMatching(`[a-z0-9.-]{0,32}`).Draw(t, "version"))
	switch rapid.IntRange(1, 19).Draw(t, "type") {
	case 1:
		return Events{Room: room, Version: version, Raw: drawRaws(t, maxEvent)}
	case 2:
		return Snapshot{Room: room, Version: version, Event: matrix.EventID(drawID(t, "$")), Heads: drawIDs(t),
			Events: drawRaws(t, maxEvent), State: drawIDs(t), Certificates: drawRaws(t, maxCertificate)}
	case 3:
		return Want{Room: room, Events: drawIDs(t)}
	case 4:
		return Heads{Room: room, Heads: drawIDs(t)}
	case 5:
		rs := Receipts{Room: room}
		for range rapid.IntRange(0, 20).Draw(t, "receipts") {
			rs.Receipts = append(rs.Receipts, Receipt{
				User: matrix.UserID(drawID(t, "@")), Event: matrix.EventID(drawID(t, "$")), Type: "m.read",
				Thread: rapid.SampledFrom([]string{"", "main", "$x"}).Draw(t, "thread"),
				Time:   time.UnixMilli(rapid.Int64Range(0, maxMillis).Draw(t, "time")),
			})
		}
		return rs
	case 6:
		w := Witness{Store: mustAddress(t, rapid.SampledFrom(storeAddresses).Draw(t, "store"))}
		for range rapid.IntRange(0, 3).Draw(t, "claims") {
			w.Claims = append(w.Claims, mailbox.Claim{Kind: mailbox.ClaimKind(rapid.Byte().Draw(t, "kind")), Epoch: rapid.Uint32().Draw(t, "day"), Hash: [32]byte(stuff(t, 32, "hash"))})
		}
		for range rapid.IntRange(0, MaxWitnessSpans).Draw(t, "spans") {
			w.Spans = append(w.Spans, SpanHash{rapid.Uint64Range(0, 1<<63-1).Draw(t, "span"), [32]byte(stuff(t, 32, "hash"))})
		}
		return w
	case 7:
		return Testimony{mustAddress(t, rapid.SampledFrom(storeAddresses).Draw(t, "store")),
			mailbox.Testimony{Descriptor: stuff(t, rapid.IntRange(1, 5000).Draw(t, "size"), "descriptor"), Pages: drawRaws(t, 9000)}}
	case 8:
		d := Devices{User: matrix.UserID(drawID(t, "@")), Serial: drawSerial(t)}
		for range rapid.IntRange(0, 5).Draw(t, "devices") {
			d.Devices = append(d.Devices, Device{ID: drawDevice(t), Keys: stuff(t, rapid.IntRange(1, maxKey).Draw(t, "size"), "keys"), Fallback: drawKeys(t, 3)})
		}
		if rapid.Bool().Draw(t, "cross-signing") {
			d.Master, d.SelfSigning = stuff(t, 300, "master"), stuff(t, 300, "self-signing")
		}
		return d
	case 9:
		return OneTimeKeys{User: matrix.UserID(drawID(t, "@")), Device: drawDevice(t), Batch: drawSerial(t), Keys: drawKeys(t, 20)}
	case 10:
		return KeysWanted{User: matrix.UserID(drawID(t, "@")), Device: drawDevice(t), Batch: drawSerial(t) - 1, Fallback: rapid.SampledFrom([]string{"", "signed_curve25519:A"}).Draw(t, "fallback")}
	case 11:
		n := drawSerial(t)
		return Message{Number: n, Previous: rapid.Uint64Range(0, n-1).Draw(t, "previous"), Sender: matrix.UserID(drawID(t, "@")), User: matrix.UserID(drawID(t, "@")),
			Device: drawDevice(t), Type: "m.room.encrypted", Content: stuff(t, rapid.IntRange(1, maxMessage).Draw(t, "size"), "content")}
	case 12:
		s := Sources{Serial: drawSerial(t)}
		for _, i := range rapid.Permutation([]byte{1, 2, 3, 4, 5}).Draw(t, "servers")[:rapid.IntRange(0, 5).Draw(t, "how many")] {
			key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{i}, 32)).Public().(ed25519.PublicKey)
			s.Servers = append(s.Servers, onionid.FromKey(key))
		}
		s.Sort()
		return s
	case 13:
		m := MediaWanted{MediaName: drawMedia(t), From: rapid.Uint64Range(0, maxMediaParts-1).Draw(t, "from"), Max: rapid.Uint64Range(0, maxNumber).Draw(t, "max")}
		if rapid.Bool().Draw(t, "bounded") {
			m.To = rapid.Uint64Range(m.From+1, maxMediaParts).Draw(t, "to")
		}
		return m
	case 14:
		m := Media{MediaName: drawMedia(t)}
		if rapid.Bool().Draw(t, "there") {
			m.Hash, m.Size = stuff(t, 32, "hash"), rapid.Uint64Range(0, MaxMediaSize).Draw(t, "size")
			m.Type, m.File = "image/png", rapid.StringMatching(`[ -~é漢]{0,63}`).Draw(t, "file")
		}
		return m
	case 15:
		return MediaBytes{MediaName: drawMedia(t), Part: rapid.Uint64Range(0, maxMediaParts).Draw(t, "part"), Bytes: stuff(t, rapid.IntRange(1, MediaPart).Draw(t, "size"), "bytes")}
	case 16:
		return Introduce{mustAddress(t, rapid.SampledFrom(storeAddresses).Draw(t, "server")).Onion, [LinkSize]byte(stuff(t, LinkSize, "link"))}
	case 17:
		return Introduced{mustAddress(t, rapid.SampledFrom(storeAddresses).Draw(t, "server")).Onion, [LinkSize]byte(stuff(t, LinkSize, "link"))}
	case 18:
		s := Signs{Serial: drawSerial(t), Good: drawTime(t)}
		for range rapid.IntRange(0, 5).Draw(t, "users") {
			s.Present = append(s.Present, Present{matrix.UserID(drawID(t, "@")), State(rapid.IntRange(1, 3).Draw(t, "state")), drawTime(t), rapid.StringMatching(`[ -~é漢]{0,99}`).Draw(t, "status")})
		}
		for range rapid.IntRange(0, 5).Draw(t, "typists") {
			s.Typing = append(s.Typing, Typist{matrix.RoomID(drawID(t, "!")), matrix.UserID(drawID(t, "@")), drawTime(t)})
		}
		return s
	default:
		c := Contact{Serial: rapid.Uint64Range(0, 1<<63-1).Draw(t, "serial"), Name: rapid.StringMatching(`[ -~é]{0,80}`).Draw(t, "name"), Profile: "balanced"}
		for range rapid.IntRange(0, 3).Draw(t, "stores") {
			c.Stores = append(c.Stores, mustAddress(t, rapid.SampledFrom(storeAddresses).Draw(t, "store")))
		}
		return c
	}
}

func drawTime(t *rapid.T) time.Time {
	return time.UnixMilli(rapid.Int64Range(0, maxMillis).Draw(t, "time"))
}

func drawMedia(t *rapid.T) MediaName {
	return MediaName{ID: [16]byte(stuff(t, 16, "id")), Small: rapid.Bool().Draw(t, "small")}
}

func TestRecordsRoundTripThroughABundle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawRecord(t)
		r, err := in.Record()
		if err != nil {
			t.Fatal(err)
		}
		fs, err := Split(r, [16]byte(stuff(t, 16, "id")))
		if err != nil {
			t.Fatal(err)
		}
		var arrived []Fragment
		for _, f := range fs {
			p := NewPacker(Head{})
			if !p.AddFragment(f) {
				t.Fatal("does not fit")
			}
			_, got, err := Unpack(p.Pack())
			if err != nil {
				t.Fatal(err)
			}
			arrived = append(arrived, got...)
		}
		back, err := Join(arrived)
		if err != nil || back.Type != r.Type {
			t.Fatalf("type %d, %v", back.Type, err)
		}
		out, err := parsers[back.Type](back.Data)
		if err != nil || !reflect.DeepEqual(in, out) {
			t.Fatalf("%v\n in %#v\nout %#v", err, in, out)
		}
	})
}

// samples is one record of each type that is parsed here.
func samples(tb testing.TB) (out []Record) {
	s := newSampler(11)
	ids := []matrix.EventID{"$one", "$two"}
	for _, c := range []coder{
		Events{Room: "!r", Version: "12", Raw: [][]byte{s.message(), s.message()}},
		Snapshot{Room: "!r", Version: "12", Event: "$e", Heads: ids, Events: [][]byte{s.message()}, State: ids, Certificates: [][]byte{s.bytes(129)}},
		Want{Room: "!r", Events: ids},
		Heads{Room: "!r", Heads: ids},
		Receipts{Room: "!r", Receipts: []Receipt{{User: "@a:b", Event: "$e", Type: "m.read", Thread: "main", Time: time.UnixMilli(1764000000000)}}},
		Contact{Serial: 300, Stores: []mailbox.Address{mustAddress(tb, storeAddresses[0])}, Name: "Alice's node", Profile: "balanced"},
		Witness{Store: mustAddress(tb, storeAddresses[0]), Claims: []mailbox.Claim{{Kind: 1, Epoch: 20000, Hash: [32]byte(s.bytes(32))}}, Spans: []SpanHash{{300, [32]byte(s.bytes(32))}, {301, [32]byte(s.bytes(32))}}},
		Testimony{mustAddress(tb, storeAddresses[0]), mailbox.Testimony{Descriptor: s.bytes(300), Pages: [][]byte{s.bytes(100), s.bytes(90)}}},
		Devices{User: "@a:b", Serial: 3, Devices: []Device{{ID: "D", Keys: s.bytes(300), Fallback: []NamedKey{{"signed_curve25519:F", s.bytes(90)}}}}, Master: s.bytes(80)},
		OneTimeKeys{User: "@a:b", Device: "D", Batch: 300, Keys: []NamedKey{{"signed_curve25519:A", s.bytes(90)}, {"signed_curve25519:B", s.bytes(90)}}},
		KeysWanted{User: "@a:b", Device: "D", Batch: 300, Fallback: "signed_curve25519:F"},
		Message{Number: 300, Previous: 299, Sender: "@a:b", User: "@c:d", Device: "*", Type: "m.room.encrypted", Content: s.bytes(900)},
		Sources{Serial: 300, Servers: []onionid.Name{mustAddress(tb, storeAddresses[0]).Onion}},
		Signs{Serial: 300, Good: time.UnixMilli(1764000000000), Present: []Present{{"@a:b", Unavailable, time.UnixMilli(1763999999000), "at lunch"}}, Typing: []Typist{{"!r", "@a:b", time.UnixMilli(1764000000000)}}},
		Ask{ID: [16]byte(s.bytes(16)), Kind: AskJoin, Room: "!r", User: "@a:b"},
		Ask{ID: [16]byte(s.bytes(16)), Kind: AskSend, Room: "!r", Event: s.message()},
		Ask{ID: [16]byte(s.bytes(16)), Kind: AskAlias, Text: "#grüße:b"},
		Ask{ID: [16]byte(s.bytes(16)), Kind: AskSummary, Room: "!r"},
		Ask{ID: [16]byte(s.bytes(16)), Kind: AskOlder, Room: "!r", Missing: ids, Have: ids, Most: 200},
		Answer{ID: [16]byte(s.bytes(16)), Kind: AnswerOlder, Older: Older{Events: [][]byte{s.message()}, Unshown: ids, Leaned: [][]byte{s.message()}, Certificates: [][]byte{s.bytes(129)},
			States: []OlderState{{Event: "$e", Come: ids}, {Event: "$f", Come: ids, Gone: ids}}}},
		Answer{ID: [16]byte(s.bytes(16)), Kind: AnswerSnapshot, Snapshot: Snapshot{Room: "!r", Version: "12", Event: "$e", Heads: ids, Events: [][]byte{s.message()}, State: ids, Certificates: [][]byte{s.bytes(129)}}},
		Answer{ID: [16]byte(s.bytes(16)), Kind: AnswerTemplate, Template: Template{Version: "12", Depth: 300, PrevEvents: ids, AuthEvents: ids, Authoriser: "@a:b", Stripped: [][]byte{s.message()}}},
		Answer{ID: [16]byte(s.bytes(16)), Kind: AnswerRoom, Room: "!r", Servers: []string{"a", "b"}},
		Answer{ID: [16]byte(s.bytes(16)), Kind: AnswerData, Data: s.bytes(300)},
		MediaWanted{MediaName: MediaName{ID: [16]byte(s.bytes(16))}, From: 3, To: 200, Max: 8 << 20},
		Media{MediaName: MediaName{ID: [16]byte(s.bytes(16)), Small: true}, Hash: s.bytes(32), Size: 30000, Type: "image/png", File: "cat.png"},
		MediaBytes{MediaName: MediaName{ID: [16]byte(s.bytes(16))}, Part: 300, Bytes: s.bytes(900)},
		Introduce{mustAddress(tb, storeAddresses[0]).Onion, [LinkSize]byte(s.bytes(LinkSize))},
		Introduced{mustAddress(tb, storeAddresses[1]).Onion, [LinkSize]byte(s.bytes(LinkSize))},
	} {
		r, err := c.Record()
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func TestATruncatedOrLengthenedRecordIsRefused(t *testing.T) {
	for _, r := range samples(t) {
		for n := range r.Data {
			if c, err := parsers[r.Type](r.Data[:n]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("type %d, the first %d bytes: %v, %v", r.Type, n, c, err)
			}
		}
		if _, err := parsers[r.Type](append(bytes.Clone(r.Data), 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("type %d, a byte more: %v", r.Type, err)
		}
	}
}

func TestCountsAreCheckedBeforeMemoryIsTaken(t *testing.T) {
	room := appendBytes([]byte(nil), "!r")
	events := appendBytes(room, "12")
	snapshot := appendBytes(events, "$e")
	number := binary.AppendUvarint
	for what, c := range map[string]struct {
		t    Type
		data []byte
		want error
	}{
		"events, 2^60":                {TypeEvents, number(events, 1<<60), ErrTooLarge},
		"events, 65,536 of nothing":   {TypeEvents, number(events, maxEvents), ErrMalformed},
		"event of 65,537":             {TypeEvents, append(number(number(events, 1), maxEvent+1), make([]byte, maxEvent+1)...), ErrTooLarge},
		"empty event":                 {TypeEvents, append(number(number(events, 2), 0), 0, 0), ErrMalformed},
		"heads of a snapshot":         {TypeSnapshot, number(snapshot, maxIDs), ErrMalformed},
		"state of a snapshot":         {TypeSnapshot, number(number(number(snapshot, 0), 0), maxIDs), ErrMalformed},
		"certificates of a snapshot":  {TypeSnapshot, number(number(number(number(snapshot, 0), 0), 0), 1<<40), ErrTooLarge},
		"want, 1025":                  {TypeWant, append(number(room, MaxWant+1), make([]byte, 4000)...), ErrTooLarge},
		"want, more than bytes":       {TypeWant, append(number(room, 1000), make([]byte, 2999)...), ErrMalformed},
		"heads, 2^63":                 {TypeHeads, number(room, 1<<63), ErrTooLarge},
		"receipts, more than bytes":   {TypeReceipts, append(number(room, 1000), make([]byte, 9999)...), ErrMalformed},
		"sources, 1001":               {TypeSources, append(number([]byte{1}, MaxSources+1), make([]byte, 32*(MaxSources+1))...), ErrTooLarge},
		"sources, more than bytes":    {TypeSources, append(number([]byte{1}, 100), make([]byte, 32*99)...), ErrMalformed},
		"sources, one twice":          {TypeSources, append(number([]byte{1}, 2), bytes.Repeat(ed25519.NewKeyFromSeed(make([]byte, 32))[32:], 2)...), ErrMalformed},
		"sources, no key":             {TypeSources, append(number([]byte{1}, 1), bytes.Repeat([]byte{0xff}, 32)...), ErrMalformed},
		"signs, 65 users":             {TypeSigns, append(number([]byte{1, 0}, MaxPresent+1), make([]byte, 6*(MaxPresent+1))...), ErrTooLarge},
		"signs, 65 typists":           {TypeSigns, append(number([]byte{1, 0, 0}, MaxTypists+1), make([]byte, 7*(MaxTypists+1))...), ErrTooLarge},
		"signs, more than bytes":      {TypeSigns, append(number([]byte{1, 0}, 60), make([]byte, 6*59)...), ErrMalformed},
		"signs, state 0":              {TypeSigns, append(appendBytes([]byte{1, 0, 1}, "@a"), 0, 0, 0, 0), ErrMalformed},
		"signs, state 4":              {TypeSigns, append(appendBytes([]byte{1, 0, 1}, "@a"), 4, 0, 0, 0), ErrMalformed},
		"signs, long status":          {TypeSigns, append(appendBytes(append(appendBytes([]byte{1, 0, 1}, "@a"), 1, 0), strings.Repeat("x", maxStatus+1)), 0), ErrTooLarge},
		"sources, serial 0":           {TypeSources, []byte{0, 0}, ErrMalformed},
		"introduce, no key":           {TypeIntroduce, append(bytes.Repeat([]byte{0xff}, 32), make([]byte, LinkSize)...), ErrMalformed},
		"stores, 17":                  {TypeContact, number([]byte{1}, MaxStores+1), ErrTooLarge},
		"room id of 256 bytes":        {TypeWant, append(appendBytes([]byte(nil), "!"+strings.Repeat("x", 255)), 0), ErrTooLarge},
		"room id with another sigil":  {TypeWant, append(appendBytes([]byte(nil), "#r"), 0), ErrMalformed},
		"room id, sigil alone":        {TypeWant, append(appendBytes([]byte(nil), "!"), 0), ErrMalformed},
		"room id, not UTF-8":          {TypeWant, append(appendBytes([]byte(nil), "!\xff"), 0), ErrMalformed},
		"room id with a line break":   {TypeWant, append(appendBytes([]byte(nil), "!a\nb"), 0), ErrMalformed},
		"room id with a zero byte":    {TypeWant, append(appendBytes([]byte(nil), "!a\x00"), 0), ErrMalformed},
		"private receipt":             {TypeReceipts, append(appendBytes(appendBytes(appendBytes(number(room, 1), "@a:b"), "$e"), "m.read.private"), 0, 0), ErrMalformed},
		"receipt after year 287,396":  {TypeReceipts, number(appendBytes(appendBytes(appendBytes(appendBytes(number(room, 1), "@a:b"), "$e"), "m.read"), ""), maxMillis+1), ErrTooLarge},
		"store address with a blank":  {TypeContact, append(appendBytes([]byte{1, 1}, storeAddresses[0]+" "), 0, 0), ErrMalformed},
		"store address, wrong letter": {TypeContact, append(appendBytes([]byte{1, 1}, storeAddresses[0][:70]+"e"), 0, 0), ErrMalformed},
		"claims of a witness":         {TypeWitness, number(appendBytes([]byte(nil), storeAddresses[0]), MaxWitnessClaims+1), ErrTooLarge},
		"spans of a witness":          {TypeWitness, number(append(appendBytes([]byte(nil), storeAddresses[0]), 0), MaxWitnessSpans), ErrMalformed},
		"witness of no store":         {TypeWitness, append(appendBytes([]byte(nil), "x"), 0, 0), ErrMalformed},
		"pages of a testimony":        {TypeTestimony, number(appendBytes(appendBytes([]byte(nil), storeAddresses[0]), "d"), 1<<40), ErrTooLarge},
		"devices":                     {TypeDevices, number(number(appendBytes([]byte(nil), "@a:b"), 1), maxDevices+1), ErrTooLarge},
		"a device's keys":             {TypeDevices, number(appendBytes(number(number(appendBytes([]byte(nil), "@a:b"), 1), 1), "D"), maxKey+1), ErrTooLarge},
		"serial of devices":           {TypeDevices, number(appendBytes([]byte(nil), "@a:b"), 0), ErrMalformed},
		"one-time keys":               {TypeOneTimeKeys, number(number(appendBytes(appendBytes([]byte(nil), "@a:b"), "D"), 1), maxOneTime+1), ErrTooLarge},
		"message before itself":       {TypeMessage, append(number(number([]byte(nil), 7), 7), []byte("\x04@a:b\x04@c:d\x01D\x01t\x02{}")...), ErrMalformed},
		"content of a message":        {TypeMessage, number(append(number(number([]byte(nil), 7), 6), []byte("\x04@a:b\x04@c:d\x01D\x01t")...), maxMessage+1), ErrTooLarge},
		"descriptor of a testimony":   {TypeTestimony, number(appendBytes([]byte(nil), storeAddresses[0]), maxTestimony+1), ErrTooLarge},
		"question of no kind":         {TypeAsk, append(make([]byte, 16), 99), ErrMalformed},
		"text of a question":          {TypeAsk, number(append(make([]byte, 16), byte(AskAlias)), MaxAskText+1), ErrTooLarge},
		"event of a question":         {TypeAsk, number(appendBytes(append(make([]byte, 16), byte(AskSend)), "!r"), 0), ErrMalformed},
		"file that ends first":        {TypeMediaWanted, append(make([]byte, 17), 5, 5, 1), ErrMalformed},
		"file of a third kind":        {TypeMediaWanted, append(make([]byte, 16), 2, 0, 0, 0), ErrTooLarge},
		"part beyond all":             {TypeMediaPart, append(number(make([]byte, 17), maxMediaParts+1), 1, 1), ErrTooLarge},
		"part without bytes":          {TypeMediaPart, append(make([]byte, 17), 0, 0), ErrMalformed},
		"part of too many bytes":      {TypeMediaPart, number(append(make([]byte, 17), 0), MediaPart+1), ErrTooLarge},
		"hash of 31 bytes":            {TypeMedia, append(append(append(make([]byte, 17), 31), make([]byte, 31)...), 0, 0, 0), ErrMalformed},
		"size without a hash":         {TypeMedia, append(make([]byte, 17), 0, 1, 0, 0), ErrMalformed},
		"size of a terabyte":          {TypeMedia, number(append(append(make([]byte, 17), 32), make([]byte, 32)...), 1<<40), ErrTooLarge},
		"answer of no kind":           {TypeAnswer, append(make([]byte, 16), 99), ErrMalformed},
		"data of an answer":           {TypeAnswer, number(append(make([]byte, 16), byte(AnswerData)), MaxAnswerData+1), ErrTooLarge},
		"servers of an answer":        {TypeAnswer, number(appendBytes(append(make([]byte, 16), byte(AnswerRoom)), "!r"), MaxAnswerServers+1), ErrTooLarge},
		"parents of a template":       {TypeAnswer, number(append(appendBytes(append(make([]byte, 16), byte(AnswerTemplate)), "12"), 9), matrix.MaxPrev+1), ErrTooLarge},
		"state of an answer":          {TypeAnswer, number(number(appendBytes(appendBytes(appendBytes(append(make([]byte, 16), byte(AnswerSnapshot)), "!r"), "12"), "$e"), 0), 1<<40), ErrTooLarge},
		"past of nothing":             {TypeAsk, append(appendBytes(append(make([]byte, 16), byte(AskOlder)), "!r"), 0, 0, 1), ErrMalformed},
		"past of too many":            {TypeAsk, number(appendBytes(append(make([]byte, 16), byte(AskOlder)), "!r"), MaxOlderMissing+1), ErrTooLarge},
		"past of too many events":     {TypeAsk, number(append(appendBytes(append(appendBytes(append(make([]byte, 16), byte(AskOlder)), "!r"), 1), "$e"), 0), MaxOlderEvents+1), ErrTooLarge},
		"events of a past":            {TypeAnswer, number(append(make([]byte, 16), byte(AnswerOlder)), MaxOlderEvents+1), ErrTooLarge},
		"states of a past":            {TypeAnswer, number(append(append(make([]byte, 16), byte(AnswerOlder)), 0, 0), MaxOlderEvents+1), ErrTooLarge},
		"ids of a past's state":       {TypeAnswer, number(appendBytes(append(append(make([]byte, 16), byte(AnswerOlder)), 0, 0, 1), "$e"), 1<<40), ErrTooLarge},
		"name with an escape":         {TypeContact, append(appendBytes([]byte{1, 0}, "\x1b[31m"), 0), ErrMalformed},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := parsers[c.t](c.data)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, %v", what, got, err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 100_000 {
			t.Errorf("%s: it took %d bytes", what, took)
		}
	}
}

func TestWhatADecoderRefusesIsNotEncoded(t *testing.T) {
	many := make([]matrix.EventID, MaxWant+1)
	for i := range many {
		many[i] = "$e"
	}
	for what, c := range map[string]struct {
		coder
		want error
	}{
		"no room":             {Events{Version: "12"}, ErrMalformed},
		"empty event":         {Events{Room: "!r", Raw: [][]byte{{}}}, ErrMalformed},
		"large event":         {Events{Room: "!r", Raw: [][]byte{make([]byte, maxEvent+1)}}, ErrTooLarge},
		"long version":        {Events{Room: "!r", Version: matrix.RoomVersion(strings.Repeat("1", 33))}, ErrTooLarge},
		"large record":        {Events{Room: "!r", Raw: slices.Repeat([][]byte{make([]byte, maxEvent)}, 65)}, ErrTooLarge},
		"no invite":           {Snapshot{Room: "!r"}, ErrMalformed},
		"bad head":            {Snapshot{Room: "!r", Event: "$e", Heads: []matrix.EventID{"x"}}, ErrMalformed},
		"large certificate":   {Snapshot{Room: "!r", Event: "$e", Certificates: [][]byte{make([]byte, 1025)}}, ErrTooLarge},
		"too many wanted":     {Want{Room: "!r", Events: many}, ErrTooLarge},
		"too many heads":      {Heads{Room: "!r", Heads: many}, ErrTooLarge},
		"long head":           {Heads{Room: "!r", Heads: []matrix.EventID{matrix.EventID("$" + strings.Repeat("x", 255))}}, ErrMalformed},
		"private receipt":     {Receipts{Room: "!r", Receipts: []Receipt{{User: "@a:b", Event: "$e", Type: "m.read.private"}}}, ErrMalformed},
		"receipt before 1970": {Receipts{Room: "!r", Receipts: []Receipt{{User: "@a:b", Event: "$e", Type: "m.read", Time: time.UnixMilli(-1)}}}, ErrTooLarge},
		"no user":             {Receipts{Room: "!r", Receipts: []Receipt{{Event: "$e", Type: "m.read", Time: time.UnixMilli(1)}}}, ErrMalformed},
		"state of a user":     {Signs{Serial: 1, Good: time.UnixMilli(1), Present: []Present{{"@a:b", 0, time.UnixMilli(1), ""}}}, ErrMalformed},
		"no store":            {Contact{Stores: make([]mailbox.Address, 1)}, ErrMalformed},
		"too many stores":     {Contact{Stores: slices.Repeat([]mailbox.Address{mustAddress(t, storeAddresses[0])}, 17)}, ErrTooLarge},
		"witness of no store": {Witness{}, ErrMalformed},
		"witness too long":    {Witness{Store: mustAddress(t, storeAddresses[0]), Spans: make([]SpanHash, MaxWitnessSpans+1)}, ErrTooLarge},
		"large testimony":     {Testimony{mustAddress(t, storeAddresses[0]), mailbox.Testimony{Descriptor: make([]byte, maxTestimony+1)}}, ErrTooLarge},
		"long name":           {Contact{Name: strings.Repeat("x", 256)}, ErrTooLarge},
	} {
		if r, err := c.Record(); !errors.Is(err, c.want) || r.Data != nil {
			t.Errorf("%s: %d bytes, %v", what, len(r.Data), err)
		}
	}
}

// TestThreePartsFillABox: beside anything but a KEM block; and two fit beside that one.
func TestThreePartsFillABox(t *testing.T) {
	for _, c := range []struct {
		head Head
		fit  int
	}{{Head{Before: &Before{}}, 3}, {Head{}, 3}, {Head{Before: &Before{}, KEM: make([]byte, MaxKEM)}, 2}} {
		p := NewPacker(c.head)
		fit := 0
		for s := newSampler(7); ; fit++ {
			r, err := MediaBytes{MediaName: MediaName{ID: [16]byte(s.bytes(16)), Small: true}, Part: maxMediaParts, Bytes: s.bytes(MediaPart)}.Record()
			if err != nil {
				t.Fatal(err)
			}
			if !p.Add(r) {
				break
			}
		}
		if fit != c.fit {
			t.Errorf("%d parts fit, not %d", fit, c.fit)
		}
	}
}
