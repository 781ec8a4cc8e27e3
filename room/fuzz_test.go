// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"slices"
	"testing"

	"tarn/matrix"
)

// Whatever bytes another node sends: no panic, and the room's indexes still say what its state says.
func FuzzIngest(f *testing.F) {
	a, b, room := pair(f)
	events, err := a.State(a.user, room)
	if err != nil {
		f.Fatal(err)
	}
	var base [][]byte
	for _, ev := range events {
		base = append(base, ev.Raw())
	}
	base = append(base, a.raw(room, a.say(room, "x")), a.raw(room, a.say(room, "y")), nil)
	f.Add(uint8(0), uint16(3), uint16(0), []byte("x"))
	f.Add(uint8(8), uint16(10), uint16(20), []byte{})
	f.Add(uint8(9), uint16(0), uint16(1), []byte("{\"a\":1,"))
	f.Add(uint8(10), uint16(0), uint16(0), []byte("{}"))
	f.Fuzz(func(t *testing.T, n uint8, at, cut uint16, put []byte) {
		b.t = t
		raw := base[int(n)%len(base)]
		i := min(int(at), len(raw))
		j := min(i+int(cut), len(raw))
		raw = slices.Concat(raw[:i], put, raw[j:])
		if _, err := b.Ingest(context.Background(), a.s.Server, room, [][]byte{raw, raw}); err != nil {
			t.Fatal(err)
		}
		b.judge(room)
	})
}

// The fuzzer signs what it makes up, so that it gets past the signatures: any content, parents and auth events of a member.
func FuzzIngestSigned(f *testing.F) {
	a, b, room := pair(f)
	id := a.say(room, "x")
	state, _ := a.current(room)
	var all []matrix.EventID
	for _, v := range state {
		all = append(all, v)
	}
	all = append(all, id)
	f.Add("m.room.message", "", false, []byte(`{"body":"x"}`), uint64(1), uint64(3), int64(12))
	f.Add("m.room.power_levels", "", true, []byte(`{"users":{}}`), uint64(0xff), uint64(1), int64(5))
	f.Add("m.room.member", string(b.user), true, []byte(`{"membership":"ban"}`), uint64(7), uint64(9), int64(0))
	f.Add("m.room.redaction", "", false, []byte(`{"redacts":"$x"}`), uint64(1<<9), uint64(0), int64(100))
	f.Fuzz(func(t *testing.T, typ, key string, isState bool, content []byte, prev, auth uint64, depth int64) {
		a.t, b.t = t, t
		p := matrix.Proto{Room: room, Sender: a.user, Type: typ, Content: content, Depth: depth}
		p.Time = a.now()
		if isState {
			p.StateKey = &key
		}
		for i, x := range all {
			if prev>>i&1 != 0 {
				p.PrevEvents = append(p.PrevEvents, x)
			}
			if auth>>i&1 != 0 && len(p.AuthEvents) < matrix.MaxAuth {
				p.AuthEvents = append(p.AuthEvents, x)
			}
		}
		ev, err := matrix.Build("12", p, a.s.Signer)
		if err != nil {
			return
		}
		if _, err := b.Ingest(context.Background(), a.s.Server, room, [][]byte{ev.Raw()}); err != nil {
			t.Fatal(err)
		}
		if m, err := b.Membership(b.user, room); err != nil || m != matrix.MemberJoin {
			// Alice may put Bob out: then begin anew.
			a, b, room = pair(t)
			return
		}
		b.judge(room)
	})
}

func FuzzSnapshot(f *testing.F) {
	a, b, _, s := invited(f, Create{Name: "x"})
	f.Add(0, 0, byte(0), 0)
	f.Add(3, 40, byte('x'), 1)
	f.Add(5, 400, byte('"'), 2)
	f.Fuzz(func(t *testing.T, event, at int, c byte, drop int) {
		x := *s
		x.Events = append([][]byte(nil), s.Events...)
		x.State = append([]matrix.EventID(nil), s.State...)
		if event >= 0 && event < len(x.Events) {
			raw := append([]byte(nil), x.Events[event]...)
			if at >= 0 && at < len(raw) {
				raw[at] = c
			}
			x.Events[event] = raw
		}
		if drop > 0 && drop < len(x.State) {
			x.State = append(x.State[:drop], x.State[drop+1:]...)
		}
		_ = b.IngestSnapshot(context.Background(), a.s.Server, &x)
		if _, err := b.Sync(b.user, 0, b.stream.Current(), SyncOptions{}); err != nil {
			t.Fatal(err)
		}
	})
}
