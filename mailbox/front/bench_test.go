// SPDX-License-Identifier: Apache-2.0

package front

import (
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"syscall"
	"testing"
	"time"

	"tarn/mailbox"
	"tarn/mailbox/store"
)

// cpu is the processor time that this process has used.
func cpu(b *testing.B) time.Duration {
	var r syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &r))
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// benchLink measures requests on one link to a store on disk, many under way, from the bytes of a request to those of its
// answer; sealing them is not counted. The raw limit is mailbox/store's BenchmarkBareHPKEOpen.
func benchLink(b *testing.B, put bool, request func() mailbox.Request) {
	_, onion, err := ed25519.GenerateKey(rand.Reader)
	must(b, err)
	st, err := store.New(store.Config{Onion: onion, Dir: b.TempDir(), Quota: 1 << 40})
	must(b, err)
	keys, err := OpenKeys("", onion, st.About)
	must(b, err)
	s, err := New(Config{Keys: keys, Store: st, AnswerTime: -1})
	must(b, err)
	go st.Run(b.Context())
	here, there := net.Pipe()
	defer here.Close()
	l := s.links.enter(time.Now())
	go s.serveLink(l, there)
	epoch := mailbox.Epoch(time.Now())
	key, info := keys.Get(epoch).Public(), mailbox.RequestInfo(keys.Onion(), epoch)
	msgs := make([][]byte, b.N)
	kind := mailbox.LinkGet
	if put {
		kind = mailbox.LinkPut
	}
	for i := range msgs {
		box, _, err := mailbox.SealHalf(put, request(), key, info)
		must(b, err)
		msgs[i] = mailbox.AppendLinkMessage(nil, mailbox.LinkMessage{Kind: kind, Tag: uint32(i), Epoch: epoch, Data: box})
	}
	done := make(chan error, 1)
	b.ResetTimer()
	began := cpu(b)
	go func() {
		for range b.N {
			m, err := mailbox.ReadLinkMessage(here, true)
			if err == nil && mailbox.Clear(m.Data[0]) != mailbox.ClearSealed {
				err = mailbox.ErrBadReply
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for _, m := range msgs {
		_, err := here.Write(m)
		must(b, err)
	}
	must(b, <-done)
	used := cpu(b) - began
	b.ReportMetric(float64(used.Microseconds())/float64(b.N), "cpu-µs/op")
	b.ReportMetric(float64(b.N)/used.Seconds(), "ops/s/core")
}

func BenchmarkPutThroughALink(b *testing.B) {
	benchLink(b, true, func() mailbox.Request {
		r := mailbox.Request{Op: mailbox.OpPut, Box: make([]byte, mailbox.BoxSize)}
		rand.Read(r.ID[:])
		rand.Read(r.Box)
		return r
	})
}

func BenchmarkGetThroughALink(b *testing.B) {
	benchLink(b, false, func() mailbox.Request {
		r := mailbox.Request{Op: mailbox.OpGet}
		rand.Read(r.Get[:])
		return r
	})
}
