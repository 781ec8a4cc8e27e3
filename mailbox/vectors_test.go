// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"tarn/crypto/sealed"
)

var update = flag.Bool("update", false, "write new test vectors (sealing is random: they differ each time, and all must open)")

const vectorFile = "testdata/vectors.json"

// vectors is what docs/SPEC.md refers to. All keys are made from the seeds; bytes are hexadecimal.
type vectors struct {
	OnionSeed   string            `json:"onion_seed"`
	SigningSeed string            `json:"signing_seed"`
	RequestKey  string            `json:"request_key"`
	Address     string            `json:"address"`
	Epoch       uint32            `json:"epoch"`
	RequestInfo string            `json:"request_info"`
	AccountID   string            `json:"account_id"` // of the secret 010203 and zeros
	Policy      string            `json:"policy"`     // tokens; work of 8 bits, codes; cap 6000; keys of the seeds 0001, 0101 and zeros from epoch on; the first seed's session key
	Descriptor  string            `json:"descriptor"` // open; keys of epoch and epoch+1 (both are request_key), buckets of 10 s, TTL 14 d
	Page        string            `json:"page"`       // level 1, index 77, 3 handles
	Plaintexts  map[string]string `json:"plaintexts"` // of requests, without the zeros at their end
	Put         string            `json:"put"`        // a whole sealed request, whose plaintext is plaintexts.put
	Answer      string            `json:"answer"`     // the whole answer to it: status exists
	Session     sessionVectors    `json:"session"`
}

var vectorRequests = map[string]Request{
	"nothing":  {Op: OpNothing},
	"get":      {Op: OpGet, Get: Handle{1, 2, 3, 4, 5, 6, 7, 8}},
	"digest":   {Op: OpDigest, Page: PageAddr{Level: 2, Index: 1_000_000, Part: 3}},
	"register": Register{Account: AccountSecret{1, 2, 3}.ID(), Proof: ProofWork, Nonce: 1234}.Request(),
	"put":      {Op: OpPut, ID: BoxID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, Box: bytes.Repeat([]byte{0xb0}, BoxSize)},
}

const vectorEpoch = 20_000

// sessionVectors is a session with the onion of the seed, with the request key of the epoch.
type sessionVectors struct {
	Hello     string `json:"hello"`      // push 10 s, frames of 3 s, no token
	Welcome   string `json:"welcome"`    // the whole answer: the salt, and descriptor of above
	Salt      string `json:"salt"`       // what it says
	PutHalf   string `json:"put_half"`   // of plaintexts.put
	GetHalf   string `json:"get_half"`   // get of 0102030405060708
	Receipt   string `json:"receipt"`    // of the PUT half: status ok
	GetAnswer string `json:"get_answer"` // of the GET half: a box of bytes b0
	Up        string `json:"up"`         // the first frame: lag 6 s, follows that onion, both halves to it with delays of 2000 and 1500 ms
	Down      string `json:"down"`       // the first that comes down: the GET answer and the receipt, of frame 0
	Pages     string `json:"pages"`      // the second: page of above

	// The same keys in a session of geometry 2, whose halves are bytes b1 (PUT) and b2 (GET) of the sizes of two layers.
	Up2   string `json:"up_2"`   // the first frame: lag 6 s, follows nobody, delays as above
	Down2 string `json:"down_2"` // the first that comes down: an answer of bytes b3 to frame 0, two receipts of bytes b4 to frames 0 and 1
}

func TestVectors(t *testing.T) {
	s := newTestStore(t)
	if *update {
		writeVectors(t, s)
	}
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	un := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if a, err := ParseAddress(v.Address); err != nil || a != s.addr {
		t.Errorf("address: %v", err)
	}
	if !bytes.Equal(RequestInfo(s.onionPublic(), v.Epoch), un(v.RequestInfo)) {
		t.Error("request info differs")
	}
	want, err := SignDescriptor(s.onion, s.descriptor(vectorEpoch, vectorEpoch+1))
	if err != nil || !bytes.Equal(want, un(v.Descriptor)) {
		t.Errorf("descriptor differs: %v", err)
	}
	if id := (AccountSecret{1, 2, 3}).ID(); !bytes.Equal(id[:], un(v.AccountID)) {
		t.Error("account id differs")
	}
	if !bytes.Equal(tokenPolicy(t, vectorEpoch, 2).append(nil), un(v.Policy)) {
		t.Error("policy differs")
	}
	d, err := ParseDescriptor(s.addr, un(v.Descriptor))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(SignPage(s.signing, s.onionPublic(), d.Bucket, testPage(3)), un(v.Page)) {
		t.Error("page differs")
	}
	for name, r := range vectorRequests {
		plain := make([]byte, RequestSize)
		copy(plain, un(v.Plaintexts[name]))
		got, err := parseRequest(plain)
		if err != nil || got.Op != r.Op || got.ID != r.ID || got.Get != r.Get || got.Page != r.Page || !bytes.Equal(got.Box, r.Box) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	up, down := [UpSize]byte(un(v.Put)), [DownSize]byte(un(v.Answer))
	h, err := ParseHeader(&up)
	if err != nil || h.Epoch != v.Epoch {
		t.Errorf("header %+v, %v", h, err)
	}
	r, reply, err := OpenRequest(&up, s.request, un(v.RequestInfo))
	if err != nil || r.ID != vectorRequests["put"].ID {
		t.Fatalf("put: %v", err)
	}
	if st, _, err := OpenAnswer(&down, reply); err != nil || st != StatusExists {
		t.Errorf("answer: %v, %v", st, err)
	}
	checkSessionVectors(t, s, v, un)
}

func checkSessionVectors(t *testing.T, s testStore, v vectors, un func(string) []byte) {
	x, onion := v.Session, s.onionPublic()
	up, down := [UpSize]byte(un(x.Hello)), [DownSize]byte(un(x.Welcome))
	hello, reply, err := OpenHello(&up, s.request, SessionInfo(onion, v.Epoch))
	if err != nil || hello.Push != 10*time.Second || hello.Token != nil || hello.Geometry != Geometry {
		t.Fatalf("hello: %+v, %v", hello, err)
	}
	salt, descriptor, err := OpenWelcome(&down, reply)
	if err != nil || !bytes.Equal(salt, un(x.Salt)) || !bytes.HasPrefix(descriptor, un(v.Descriptor)) {
		t.Fatalf("welcome: %v", err)
	}
	layout, _ := LayoutOf(Geometry)
	u, d := SessionChannels(layout, reply, salt)
	f, err := u.OpenUpFrame(un(x.Up))
	if err != nil || f.Lag != 6*time.Second || len(f.Follow) != 1 || string(f.Follow[0][:]) != string(onion) ||
		f.Put.Delay != 2*time.Second || f.Get.Delay != 1500*time.Millisecond || !bytes.Equal(f.Put.Box, un(x.PutHalf)) || !bytes.Equal(f.Get.Box, un(x.GetHalf)) {
		t.Fatalf("frame up: %v", err)
	}
	put, pr, err := OpenHalf(f.Put.Box, s.request, RequestInfo(onion, v.Epoch))
	if err != nil || put.Op != OpPut || put.ID != vectorRequests["put"].ID {
		t.Errorf("PUT half: %v", err)
	}
	get, gr, err := OpenHalf(f.Get.Box, s.request, RequestInfo(onion, v.Epoch))
	if err != nil || get.Op != OpGet || get.Get != vectorRequests["get"].Get {
		t.Errorf("GET half: %v", err)
	}
	p, err := d.openDown(un(x.Down))
	if err != nil {
		t.Fatal(err)
	}
	g, err := parseDownFrame(layout, p)
	if err != nil || g.Get == nil || !bytes.Equal(g.Get.Data, un(x.GetAnswer)) || len(g.Receipts) != 1 || !bytes.Equal(g.Receipts[0].Data, un(x.Receipt)) {
		t.Fatalf("frame down: %+v, %v", g, err)
	}
	if st, body, err := openHalfAnswer(false, g.Get.Data, gr); err != nil || st != StatusOK || body[0] != 0xb0 {
		t.Errorf("GET answer: %v, %v", st, err)
	}
	if st, _, err := openHalfAnswer(true, g.Receipts[0].Data, pr); err != nil || st != StatusOK {
		t.Errorf("receipt: %v, %v", st, err)
	}
	if p, err = d.openDown(un(x.Pages)); err != nil {
		t.Fatal(err)
	}
	if pages, err := parsePageFrame(p); err != nil || len(pages) != 1 || !bytes.Equal(pages[0].Part, un(v.Page)) {
		t.Errorf("page frame: %v", err)
	}
	up2, down2 := layeredFrames(t, onion, reply, salt)
	if !bytes.Equal(up2, un(x.Up2)) || !bytes.Equal(down2, un(x.Down2)) {
		t.Error("frames of geometry 2 differ")
	}
	layout, _ = LayoutOf(GeometryLayers)
	u, d = SessionChannels(layout, reply, salt)
	if f, err = u.OpenUpFrame(un(x.Up2)); err != nil || !bytes.Equal(f.Put.Box, bytes.Repeat([]byte{0xb1}, layout.put())) || !bytes.Equal(f.Get.Box, bytes.Repeat([]byte{0xb2}, layout.get())) {
		t.Errorf("frame up of geometry 2: %v", err)
	}
	if p, err = d.openDown(un(x.Down2)); err != nil {
		t.Fatal(err)
	}
	if g, err := parseDownFrame(layout, p); err != nil || g.Get == nil || g.Get.Data[0] != 0xb3 || len(g.Receipts) != 2 || g.Receipts[1].Data[0] != 0xb4 {
		t.Errorf("frame down of geometry 2: %+v, %v", g, err)
	}
}

// layeredFrames are up_2 and down_2.
func layeredFrames(t *testing.T, onion []byte, reply *sealed.Reply, salt []byte) (up, down []byte) {
	layout, _ := LayoutOf(GeometryLayers)
	u, d := SessionChannels(layout, reply, salt)
	half := func(b byte, size int) []byte { return bytes.Repeat([]byte{b}, size) }
	up, err := u.AppendUpFrame(nil, &UpFrame{Lag: 6 * time.Second,
		Put: SubRequest{[32]byte(onion), 2 * time.Second, vectorEpoch, half(0xb1, layout.put())}, Get: SubRequest{[32]byte(onion), 1500 * time.Millisecond, vectorEpoch, half(0xb2, layout.get())}})
	if err != nil {
		t.Fatal(err)
	}
	receipt := half(0xb4, layout.receipt())
	down, err = d.AppendDownFrame(nil, &DownFrame{Get: &HalfAnswer{0, half(0xb3, layout.answer())}, Receipts: []HalfAnswer{{0, receipt}, {1, receipt}}})
	if err != nil {
		t.Fatal(err)
	}
	return up, down
}

// makeSessionVectors is a session as it goes.
func makeSessionVectors(t *testing.T, s testStore, descriptor, page []byte) (x sessionVectors) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	h, onion, info := hex.EncodeToString, s.onionPublic(), RequestInfo(s.onionPublic(), vectorEpoch)
	var up [UpSize]byte
	var down [DownSize]byte
	_, err := SealHello(&up, Hello{Geometry: Geometry, Push: 10 * time.Second, Frame: 3 * time.Second}, s.request.Public(), SessionInfo(onion, vectorEpoch), vectorEpoch)
	must(err)
	x.Hello = h(up[:])
	_, reply, err := OpenHello(&up, s.request, SessionInfo(onion, vectorEpoch))
	must(err)
	salt := [SaltSize]byte(bytes.Repeat([]byte{9}, SaltSize))
	x.Salt = h(salt[:])
	SealWelcome(&down, reply, &salt, descriptor)
	x.Welcome = h(down[:])
	layout, _ := LayoutOf(Geometry)
	u, d := SessionChannels(layout, reply, salt[:])
	put, pr, err := SealHalf(true, vectorRequests["put"], s.request.Public(), info)
	must(err)
	get, gr, err := SealHalf(false, vectorRequests["get"], s.request.Public(), info)
	must(err)
	x.PutHalf, x.GetHalf = h(put), h(get)
	frame, err := u.AppendUpFrame(nil, &UpFrame{Lag: 6 * time.Second, Follow: [][32]byte{[32]byte(onion)},
		Put: SubRequest{[32]byte(onion), 2 * time.Second, vectorEpoch, put}, Get: SubRequest{[32]byte(onion), 1500 * time.Millisecond, vectorEpoch, get}})
	must(err)
	receipt, answer := SealHalfAnswer(true, pr, StatusOK, nil), SealHalfAnswer(false, gr, StatusOK, bytes.Repeat([]byte{0xb0}, BoxSize))
	x.Up, x.Receipt, x.GetAnswer = h(frame), h(receipt), h(answer)
	frame, err = d.AppendDownFrame(nil, &DownFrame{Get: &HalfAnswer{0, answer}, Receipts: []HalfAnswer{{0, receipt}}})
	must(err)
	x.Down = h(frame)
	frame, err = d.AppendPageFrame(nil, []PushedPage{{[32]byte(onion), page}})
	must(err)
	x.Pages = h(frame)
	up2, down2 := layeredFrames(t, onion, reply, salt[:])
	x.Up2, x.Down2 = h(up2), h(down2)
	return x
}

func writeVectors(t *testing.T, s testStore) {
	h := hex.EncodeToString
	info := RequestInfo(s.onionPublic(), vectorEpoch)
	desc, err := SignDescriptor(s.onion, s.descriptor(vectorEpoch, vectorEpoch+1))
	if err != nil {
		t.Fatal(err)
	}
	v := vectors{
		OnionSeed: h(s.onion.Seed()), SigningSeed: h(s.signing.Seed()), RequestKey: h(s.request.Bytes()), Address: s.addr.String(),
		Epoch: vectorEpoch, RequestInfo: h(info), Descriptor: h(desc),
		Page: h(SignPage(s.signing, s.onionPublic(), s.descriptor(1).Bucket, testPage(3))), Plaintexts: map[string]string{},
	}
	id := AccountSecret{1, 2, 3}.ID()
	v.AccountID, v.Policy = h(id[:]), h(tokenPolicy(t, vectorEpoch, 2).append(nil))
	page := SignPage(s.signing, s.onionPublic(), s.descriptor(1).Bucket, testPage(3))
	v.Session = makeSessionVectors(t, s, desc, page)
	for name, r := range vectorRequests {
		var up [UpSize]byte
		if _, err := SealRequest(&up, r, s.request.Public(), info, vectorEpoch); err != nil {
			t.Fatal(err)
		}
		plain, reply, err := s.request.Open(info, up[HeaderSize:])
		if err != nil {
			t.Fatal(err)
		}
		v.Plaintexts[name] = h(bytes.TrimRight(plain, "\x00"))
		if r.Op == OpPut {
			var down [DownSize]byte
			SealAnswer(&down, reply, StatusExists, nil)
			v.Put, v.Answer = h(up[:]), h(down[:])
		}
	}
	b, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
