// SPDX-License-Identifier: Apache-2.0

package front

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"testing"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/store"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newTestServer is a door with a store in memory, whose answers are asked for directly.
func newTestServer(t testing.TB) *Server {
	t.Helper()
	_, onion, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	st, err := store.New(store.Config{Onion: onion, Engine: store.NewMemory(time.Hour, 1<<24), ExpiryUnit: time.Hour})
	must(t, err)
	keys, err := OpenKeys("", onion, st.About)
	must(t, err)
	s, err := New(Config{Keys: keys, Store: st})
	must(t, err)
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { done <- st.Run(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	return s
}

// FuzzAnswer: whatever a request says, the answer is whole and of a known kind. The fuzzer writes the plaintext of a
// sealed request, or the whole request.
func FuzzAnswer(f *testing.F) {
	s := newTestServer(f)
	epoch := mailbox.Epoch(time.Now())
	key, info := s.cfg.Keys.Get(epoch).Public(), mailbox.RequestInfo(s.cfg.Keys.Onion(), epoch)
	for op := range byte(8) {
		f.Add([]byte{op}, true)
		f.Add([]byte{mailbox.Geometry, op}, false)
	}
	f.Add([]byte{byte(mailbox.OpDigest), 96: 0, 97: 2, 105: 1}, true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		buf := new(buffers)
		if seal {
			plain := make([]byte, mailbox.RequestSize)
			copy(plain, b)
			box, reply, err := key.Seal(info, plain)
			must(t, err)
			mailbox.DescriptorRequest(&buf.up) // a header to begin with
			buf.up[1] = byte(mailbox.KindSealed)
			buf.up[4], buf.up[5], buf.up[6], buf.up[7] = byte(epoch>>24), byte(epoch>>16), byte(epoch>>8), byte(epoch)
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
