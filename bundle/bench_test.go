// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"testing"

	"tarn/matrix"
)

// fill packs events until one does not fit, as the outbox does: each as a record of its own.
func fill(tb testing.TB, s *sampler, next func() []byte) (p *Packer, n, bytes int) {
	p = NewPacker(Head{})
	for {
		e := next()
		if !p.Add(s.record(tb, e)) {
			return p, n, bytes
		}
		n, bytes = n+1, bytes+len(e)
	}
}

// TestEventsPerBox reports how much a box holds (-v), and fails if it gets markedly worse than it was.
func TestEventsPerBox(t *testing.T) {
	for _, c := range []struct {
		what string
		next func(*sampler) []byte
		size int // that the sample is to have, about
		min  float64
	}{
		{"m.room.message", (*sampler).message, 715, 38},
		{"m.room.encrypted", (*sampler).encrypted, 1282, 13},
		{"both in turn", func(s *sampler) []byte {
			if s.Uint64()%2 == 0 {
				return s.message()
			}
			return s.encrypted()
		}, 1000, 19},
		{"m.room.message, a room each", func(s *sampler) []byte { s.enter(); return s.message() }, 715, 24},
	} {
		s := newSampler(1)
		boxes, events, bytes, tries := 40, 0, 0, 0
		for range boxes {
			p, n, b := fill(t, s, func() []byte { return c.next(s) })
			events, bytes, tries = events+n, bytes+b, tries+p.tries
		}
		per := float64(events) / float64(boxes)
		t.Logf("%-28s %4d B raw, %5.1f events a box, %4.0f B of box an event, %.1f compressions a box",
			c.what, bytes/events, per, Size/per, float64(tries)/float64(boxes))
		if mean := bytes / events; mean < c.size*9/10 || mean > c.size*11/10 {
			t.Errorf("%s: the sample has %d bytes, not some %d", c.what, mean, c.size)
		}
		if per < c.min {
			t.Errorf("%s: %.1f events a box, fewer than %.1f", c.what, per, c.min)
		}
	}
}

func benchPack(b *testing.B, next func(*sampler) []byte) {
	s := newSampler(2)
	var records []Record
	for range 64 {
		records = append(records, s.record(b, next(s)))
	}
	n, raw := 0, 0
	for b.Loop() {
		p := NewPacker(Head{})
		for _, r := range records {
			if !p.Add(r) {
				break
			}
			n, raw = n+1, raw+len(r.Data)
		}
		p.Pack()
	}
	b.ReportMetric(float64(n)/float64(b.N), "events/box")
	b.SetBytes(int64(raw / b.N))
}

func BenchmarkPackFullOfMessages(b *testing.B)  { benchPack(b, (*sampler).message) }
func BenchmarkPackFullOfEncrypted(b *testing.B) { benchPack(b, (*sampler).encrypted) }

func BenchmarkPackOneMessage(b *testing.B) {
	s := newSampler(3)
	r := s.record(b, s.message())
	for b.Loop() {
		p := NewPacker(Head{})
		if !p.Add(r) {
			b.Fatal("does not fit")
		}
		p.Pack()
	}
}

func BenchmarkUnpackFullOfMessages(b *testing.B) {
	s := newSampler(4)
	p, n, _ := fill(b, s, s.message)
	box := p.Pack()
	for b.Loop() {
		_, fs, err := Unpack(box)
		if err != nil || len(fs) != n {
			b.Fatal(err)
		}
		for _, f := range fs {
			if _, err := ParseEvents(f.Data); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkParseSnapshot(b *testing.B) {
	s := newSampler(5)
	snap := Snapshot{Room: matrix.RoomID(s.room), Version: "12", Event: matrix.EventID(s.prev)}
	for range 500 {
		snap.Events = append(snap.Events, s.message())
		snap.State = append(snap.State, matrix.EventID(s.prev))
	}
	r, err := snap.Record()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(r.Data)))
	for b.Loop() {
		if _, err := ParseSnapshot(r.Data); err != nil {
			b.Fatal(err)
		}
	}
}
