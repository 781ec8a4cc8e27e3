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
	var vs []vector
	if err := json.Unmarshal(b, &vs); err != nil || len(vs) == 0 {
		t.Fatalf("%d vectors, %v", len(vs), err)
	}
	same := func(what string, got []byte, want string) {
		t.Helper()
		if want == "" || hex.EncodeToString(got) != want {
			t.Errorf("%s: %x, want %s", what, got, want)
		}
	}
	for _, v := range vs {
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
					same("sender's state", s.Marshal(), v.Sender)
				}
				_, s = s.Next()
			}
			m := s.chain.slot()
			same("chain", s.chain[:], want.Chain)
			same("slot", m[:], want.Slot)
			slot, _ := s.Next()
			same("id", slot.ID[:], want.ID)
			same("key", slot.key[:], want.Key)
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
		same("receiver's state", r.Marshal(), v.Receiver)
	}
}
