// SPDX-License-Identifier: Apache-2.0

package mailbox

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"
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
	Policy      string            `json:"policy"`     // tokens; work of 8 bits, codes; cap 6000; keys of the seeds 0001, 0101 and zeros from epoch on
	Descriptor  string            `json:"descriptor"` // open; keys of epoch and epoch+1 (both are request_key), buckets of 10 s, TTL 14 d
	Page        string            `json:"page"`       // level 1, index 77, 3 handles
	Plaintexts  map[string]string `json:"plaintexts"` // of requests, without the zeros at their end
	Put         string            `json:"put"`        // a whole sealed request, whose plaintext is plaintexts.put
	Answer      string            `json:"answer"`     // the whole answer to it: status exists
}

var vectorRequests = map[string]Request{
	"nothing":  {Op: OpNothing},
	"get":      {Op: OpGet, Get: Handle{1, 2, 3, 4, 5, 6, 7, 8}},
	"digest":   {Op: OpDigest, Page: PageAddr{Level: 2, Index: 1_000_000, Part: 3}},
	"register": Register{Account: AccountSecret{1, 2, 3}.ID(), Proof: ProofWork, Nonce: 1234}.Request(),
	"put":      {Op: OpPut, ID: BoxID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, Box: bytes.Repeat([]byte{0xb0}, BoxSize)},
}

const vectorEpoch = 20_000

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
