// SPDX-License-Identifier: Apache-2.0

package ratchet

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// vector is testdata/vectors.json, which testdata/vectors.py made without any of our code.
type vector struct {
	Root      string
	Epoch     uint32
	Initiator bool // sends
	Carry     string
	Plaintext string
	Slots     []struct {
		Index                uint64
		Chain, Slot, ID, Key string
		Place                string
		Associated, Box      string
	}
	Sender   string `json:"sender_after_2"`
	Receiver string `json:"receiver_after_1"`
}

func TestVectors(t *testing.T) {
	b, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var all struct {
		Streams []vector
		Turns   []turnVector
	}
	if err := json.Unmarshal(b, &all); err != nil || len(all.Streams) == 0 || len(all.Turns) == 0 {
		t.Fatalf("%d and %d vectors, %v", len(all.Streams), len(all.Turns), err)
	}
	same := func(what string, got []byte, want string) {
		t.Helper()
		if want == "" || hex.EncodeToString(got) != want {
			t.Errorf("%s: %x, want %s", what, got, want)
		}
	}
	for _, v := range all.Turns {
		v.check(t, same)
	}
	for _, v := range all.Streams {
		root, err := hex.DecodeString(v.Root)
		if err != nil {
			t.Fatal(err)
		}
		s := NewSender(Root(root), v.Epoch, v.Initiator)
		same("carry", s.carry[:], v.Carry)
		r := NewReceiver(Root(root), v.Epoch, !v.Initiator)
		expected := r.Expected(101)
		for _, want := range v.Slots {
			for s.Index() < want.Index {
				if s.Index() == 2 {
					same("sender's state", s.marshal(), v.Sender)
				}
				_, s = s.Next()
			}
			m := s.chain.slot()
			same("chain", s.chain[:], want.Chain)
			same("slot", m[:], want.Slot)
			slot, _ := s.Next()
			same("id", slot.ID[:], want.ID)
			key := slot.key()
			same("key", key[:], want.Key)
			place := slot.Place()
			same("place", place[:], want.Place)
			same("associated data", slot.associated(), want.Associated)
			same("box", slot.Seal([]byte(v.Plaintext)), want.Box)
			if expected[want.Index] != slot {
				t.Errorf("the receiver expects another slot at %d", want.Index)
			}
		}
		if err := r.Done(1); err != nil {
			t.Fatal(err)
		}
		same("receiver's state", r.marshal(), v.Receiver)
	}
}

// turnVector is a turn from one epoch to the next, and a recovery with the same KEM values.
type turnVector struct {
	Seed            string
	Epoch           uint32
	InitiatorOffers bool `json:"initiator_offers"`
	Carry           string
	Public          string
	Ciphertext      string
	Shared          string
	Root            string
	RecoveryRoot    string `json:"recovery_root"`
}

func (v turnVector) check(t *testing.T, same func(string, []byte, string)) {
	t.Helper()
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	k, carry, ct := seed(unhex(v.Seed)), [32]byte(unhex(v.Carry)), unhex(v.Ciphertext)
	public, err := k.public()
	if err != nil {
		t.Fatal(err)
	}
	same("public key", public, v.Public)
	ss, err := k.decapsulate(ct, v.Epoch)
	if err != nil {
		t.Fatal(err)
	}
	same("shared secret", ss, v.Shared)
	root := nextRoot(&carry, ss, v.Epoch, v.InitiatorOffers, public, ct)
	same("root", root[:], v.Root)
	if root, err = (Offer{k}).Root(carry, v.Epoch, v.InitiatorOffers, ct); err != nil {
		t.Fatal(err)
	}
	same("root of a recovery", root[:], v.RecoveryRoot)
}
