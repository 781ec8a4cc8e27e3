// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"tarn/matrix"
	"tarn/store"
)

var errDisk = errors.New("the disk fails")

// frail is a KV whose writes fail once enough rows were written: in the middle of a transaction, or when it commits.
type frail struct {
	store.KV
	left   int  // rows until it fails; < 0: never
	atEnd  bool // fails after fn, as a failing sync does
	failed bool
}

type frailTxn struct {
	store.Txn
	f *frail
}

func (x frailTxn) count() error {
	if x.f.left == 0 {
		x.f.failed = true
		return errDisk
	}
	if x.f.left > 0 {
		x.f.left--
	}
	return nil
}

func (x frailTxn) Set(k, v []byte) error {
	if err := x.count(); err != nil && !x.f.atEnd {
		return err
	}
	return x.Txn.Set(k, v)
}

func (x frailTxn) Delete(k []byte) error {
	if err := x.count(); err != nil && !x.f.atEnd {
		return err
	}
	return x.Txn.Delete(k)
}

func (f *frail) Update(fn func(store.Txn) error) error {
	return f.KV.Update(func(txn store.Txn) error {
		err := fn(frailTxn{txn, f})
		if err == nil && f.failed {
			return errDisk
		}
		return err
	})
}

// dump is everything in a store but the stream's lease and the room counter, whose gaps mean nothing.
func dump(t testing.TB, kv store.KV) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := kv.View(func(r store.Reader) error {
		for table := range 256 {
			if table == store.TableMeta || table == tabCounter || table == tabNumber {
				continue
			}
			err := r.Scan([]byte{byte(table)}, nil, func(k, v []byte) (bool, error) {
				out[string(k)] = string(v)
				return true, nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A failing disk, at whatever row of whatever operation: nothing of it is there, not even in memory, and the same again works.
func TestNothingIsHalfWritten(t *testing.T) {
	ctx := context.Background()
	type op struct {
		name string
		do   func(a, b *player, room matrix.RoomID, s *Snapshot) error
	}
	for _, o := range []op{
		{"send", func(a, _ *player, room matrix.RoomID, _ *Snapshot) error {
			_, err := a.Send(ctx, NewEvent{Room: room, Sender: a.user, Type: matrix.TypeMessage, Content: body("x"), Device: "D", Txn: "t"})
			return err
		}},
		{"state", func(a, _ *player, room matrix.RoomID, _ *Snapshot) error {
			_, err := a.Send(ctx, NewEvent{Room: room, Sender: a.user, Type: matrix.TypeName, StateKey: new(string), Content: []byte(`{"name":"x"}`)})
			return err
		}},
		{"ban", func(a, b *player, room matrix.RoomID, _ *Snapshot) error {
			_, err := a.SetMembership(ctx, room, a.user, b.user, matrix.MemberBan, "", false)
			return err
		}},
		{"thread", func(a, _ *player, room matrix.RoomID, _ *Snapshot) error {
			_, err := a.Send(ctx, NewEvent{Room: room, Sender: a.user, Type: matrix.TypeMessage, Device: "D", Txn: "t", Content: object(map[string]any{
				"body": "x", "m.relates_to": map[string]any{"rel_type": matrix.RelThread, "event_id": a.root(room)}})})
			return err
		}},
		{"create", func(a, _ *player, _ matrix.RoomID, _ *Snapshot) error {
			_, err := a.Create(ctx, Create{Creator: a.user, Alias: "x"})
			return err
		}},
		{"snapshot", func(a, b *player, _ matrix.RoomID, s *Snapshot) error {
			return b.IngestSnapshot(ctx, a.s.Server, s)
		}},
		{"join", func(a, b *player, room matrix.RoomID, s *Snapshot) error {
			if err := b.IngestSnapshot(ctx, a.s.Server, s); err != nil {
				return err
			}
			_, err := b.SetMembership(ctx, room, b.user, b.user, matrix.MemberJoin, "", false)
			return err
		}},
	} {
		for _, atEnd := range []bool{false, true} {
			for n := 0; ; n++ {
				kvA, kvB := &frail{KV: store.OpenMemory(), left: -1}, &frail{KV: store.OpenMemory(), left: -1}
				a, b := playOn(t, 1, kvA), playOn(t, 2, kvB)
				room := a.create(Create{Invite: []matrix.UserID{b.user}})
				_, id := split(a.mail(b)[0].Data)
				s, err := a.Snapshot(room, id)
				if err != nil {
					t.Fatal(err)
				}
				beforeA, beforeB := dump(t, kvA), dump(t, kvB)
				kvA.left, kvB.left, kvA.atEnd, kvB.atEnd = n, n, atEnd, atEnd
				err = o.do(a, b, room, s)
				if err == nil {
					if n < 3 {
						t.Fatalf("%s: no write failed", o.name)
					}
					break
				}
				if !errors.Is(err, errDisk) {
					t.Fatalf("%s, row %d: %v", o.name, n, err)
				}
				if o.name != "join" {
					if got := dump(t, kvA); !equalDumps(got, beforeA) {
						t.Fatalf("%s, row %d: something was written", o.name, n)
					}
					if got := dump(t, kvB); !equalDumps(got, beforeB) {
						t.Fatalf("%s, row %d: something was written", o.name, n)
					}
				}
				kvA.left, kvB.left, kvA.failed, kvB.failed = -1, -1, false, false
				if n%3 == 0 { // as a new process, or the one that met the error
					a.open()
					b.open()
				}
				if err := o.do(a, b, room, s); err != nil {
					t.Fatalf("%s again, row %d: %v", o.name, n, err)
				}
				a.say(room, "after")
				a.judge(room)
				if o.name == "join" {
					b.post(a)
					a.post(b)
					same(t, room, a, b)
				}
			}
		}
	}
}

// root is the room's first event.
func (p *player) root(room matrix.RoomID) matrix.EventID {
	page, err := p.Messages(p.user, room, 0, false, 1, nil)
	if err != nil || len(page.Events) != 1 {
		p.t.Fatal(page, err)
	}
	return page.Events[0].ID()
}

func equalDumps(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// An Ingest that is cut off between its transactions is delivered again.
func TestInterruptedIngestIsDeliveredAgain(t *testing.T) {
	kv := &frail{KV: store.OpenMemory(), left: -1}
	a, b := play(t, 1), playOn(t, 2, kv)
	room := a.create(Create{Invite: []matrix.UserID{b.user}})
	a.post(b)
	b.member(room, b.user, b.user, matrix.MemberJoin)
	b.post(a)
	var raws [][]byte
	for i := range 600 {
		raw, err := a.Raw(room, a.say(room, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		raws = append(raws, raw)
	}
	a.mail(b)
	for n := 100; ; n += 400 {
		kv.left, kv.failed = n, false
		in, err := b.Ingest(context.Background(), a.s.Server, room, raws)
		if err == nil {
			if len(in.Stored) == 0 || len(in.Missing) != 0 || in.Bad != 0 {
				t.Fatalf("%d stored, %+v missing, %d bad", len(in.Stored), in.Missing, in.Bad)
			}
			break
		}
		if !errors.Is(err, errDisk) {
			t.Fatal(err)
		}
		b.judge(room)
	}
	same(t, room, a, b)
	got := b.all(b.user, room, 50)
	if n := len(got); n < 600 {
		t.Fatalf("%d events", n)
	}
	slices.Sort(got)
	if n := len(got); len(slices.Compact(got)) != n {
		t.Fatal("doubles")
	}
}
