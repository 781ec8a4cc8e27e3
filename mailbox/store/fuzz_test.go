// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"tarn/crypto/sealed"
	"tarn/mailbox"
)

// newTestServer is a server that is not served: its answers are asked for directly.
func newTestServer(t testing.TB, cfg Config) *Server {
	t.Helper()
	_, cfg.Onion, _ = ed25519.GenerateKey(rand.Reader)
	cfg.AnswerTime = -1
	s, err := New(cfg)
	must(t, err)
	done := make(chan struct{})
	go func() { defer close(done); s.commitLoop() }()
	t.Cleanup(func() { close(s.deposits); <-done; closeAll(t, s) })
	return s
}

// asker seals requests for s as a client would.
type asker struct {
	onion ed25519.PublicKey
	key   *sealed.PublicKey
	epoch uint32
}

func newAsker(t testing.TB, s *Server) asker {
	t.Helper()
	epoch := mailbox.Epoch(time.Now())
	return asker{s.onion(), s.keys.get(epoch).Public(), epoch}
}

func (a asker) seal(t testing.TB, up *[mailbox.UpSize]byte, r mailbox.Request) *sealed.Reply {
	t.Helper()
	reply, err := mailbox.SealRequest(up, r, a.key, mailbox.RequestInfo(a.onion, a.epoch), a.epoch)
	must(t, err)
	return reply
}

// FuzzAnswer: whatever a request says, the answer is whole and of a known kind. The fuzzer writes the plaintext of a
// sealed request, or the whole request.
func FuzzAnswer(f *testing.F) {
	s := newTestServer(f, Config{Engine: NewMemory(time.Hour, 1<<24), ExpiryUnit: time.Hour})
	a := newAsker(f, s)
	for op := range byte(6) {
		f.Add([]byte{op}, true)
		f.Add([]byte{mailbox.Geometry, op}, false)
	}
	f.Add([]byte{byte(mailbox.OpDigest), 96: 0, 97: 2, 105: 1}, true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		buf := new(buffers)
		if seal {
			plain := make([]byte, mailbox.RequestSize)
			copy(plain, b)
			box, reply, err := a.key.Seal(mailbox.RequestInfo(a.onion, a.epoch), plain)
			must(t, err)
			mailbox.DescriptorRequest(&buf.up) // a header to begin with
			buf.up[1] = byte(mailbox.KindSealed)
			buf.up[4], buf.up[5], buf.up[6], buf.up[7] = byte(a.epoch>>24), byte(a.epoch>>16), byte(a.epoch>>8), byte(a.epoch)
			copy(buf.up[mailbox.HeaderSize:], box)
			s.answer(buf)
			if _, _, err := mailbox.OpenAnswer(&buf.down, reply); err != nil {
				t.Fatalf("a request that opens is answered with %v", err)
			}
			return
		}
		copy(buf.up[:], b)
		s.answer(buf)
		if c := mailbox.Clear(buf.down[0]); c > mailbox.ClearRefused || c == mailbox.ClearSealed || c == mailbox.ClearBusy {
			t.Fatalf("answer of kind %d to garbage", c)
		}
	})
}
