// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
	"time"

	"tarn/mailbox"
)

// TestVectorsOfAFirstContact holds every derivation of SPEC replicate §1 to §3 to testdata/vectors.json. TARN_UPDATE=1
// writes the file anew: then the wire format has changed, and its version must too.
func TestVectorsOfAFirstContact(t *testing.T) {
	content, _ := testPayload(t)
	voucher := sha256.Sum256(content)
	link := Link{Store: mailbox.Address{Onion: testIdentity(9).Name}, Voucher: voucher, Expiry: time.Unix(1_900_000_000, 0)}
	at := payloadPlace(voucher)
	box, err := at.seal(content)
	if err != nil {
		t.Fatal(err)
	}
	replySecret, nonce := [32]byte{2}, [32]byte{1}
	back := replyPlace(voucher, replySecret)
	answer := bytes.Repeat([]byte{0xa5}, 1500) // stands for the HPKE box, which is random
	s, err := agree(voucher, replySecret, [32]byte{3}, testIdentity(1).Name, testIdentity(2).Name, answer)
	if err != nil {
		t.Fatal(err)
	}
	rescue := recoveryPlace(s.recovery, true, 20000, 1)
	left, err := leftPlace([32]byte(bytes.Repeat([]byte{7}, 32)), true, 20000, mailbox.Address{Onion: testIdentity(1).Name})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(box[:])
	got := map[string]string{
		"inviter onion seed":                 hex.EncodeToString(bytes.Repeat([]byte{1}, 32)),
		"acceptor onion seed":                hex.EncodeToString(bytes.Repeat([]byte{2}, 32)),
		"payload":                            hex.EncodeToString(content),
		"voucher":                            hex.EncodeToString(voucher[:]),
		"link":                               link.String(),
		"invitation id":                      hex.EncodeToString(at.id[:]),
		"invitation key":                     hex.EncodeToString(at.key[:]),
		"invitation box SHA-256":             hex.EncodeToString(sum[:]),
		"reply secret":                       hex.EncodeToString(replySecret[:]),
		"reply id":                           hex.EncodeToString(back.id[:]),
		"reply key":                          hex.EncodeToString(back.key[:]),
		"reply plaintext (voucher 05 00...)": hex.EncodeToString(testReply()),
		"answer":                             hex.EncodeToString(answer),
		"contribution":                       hex.EncodeToString(append([]byte{3}, make([]byte, 31)...)),
		"root":                               hex.EncodeToString(s.root[:]),
		"number key":                         hex.EncodeToString(s.numberKey[:]),
		"recovery secret":                    hex.EncodeToString(s.recovery[:]),
		"recovery id (initiator, 20000, 1)":  hex.EncodeToString(rescue.id[:]),
		"recovery key (initiator, 20000, 1)": hex.EncodeToString(rescue.key[:]),
		"left tokens id (recovery secret 07..., initiator, 20000, inviter's onion)":  hex.EncodeToString(left.id[:]),
		"left tokens key (recovery secret 07..., initiator, 20000, inviter's onion)": hex.EncodeToString(left.key[:]),
		"nonce":  hex.EncodeToString(nonce[:]),
		"number": numberOf(s.numberKey, nonce),
	}
	const file = "testdata/vectors.json"
	if os.Getenv("TARN_UPDATE") != "" {
		b, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(b, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]string
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	for k, v := range got {
		if want[k] != v {
			t.Errorf("%s is %.80s, the vector says %.80s", k, v, want[k])
		}
	}
	if len(want) != len(got) {
		t.Errorf("%d vectors, %d computed", len(want), len(got))
	}
}
