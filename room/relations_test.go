// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"tarn/matrix"
	"tarn/store"
)

func (p *player) relate(room matrix.RoomID, rel string, to matrix.EventID) matrix.EventID {
	p.t.Helper()
	id, err := p.Send(context.Background(), NewEvent{Room: room, Sender: p.user, Type: matrix.TypeMessage, Content: object(map[string]any{
		"msgtype": "m.text", "body": "x", "m.new_content": map[string]any{}, "m.relates_to": map[string]any{"rel_type": rel, "event_id": to},
	})})
	if err != nil {
		p.t.Fatal(err)
	}
	return id
}

func (p *player) redact(room matrix.RoomID, id matrix.EventID) {
	p.t.Helper()
	if _, err := p.Send(context.Background(), NewEvent{Room: room, Sender: p.user, Type: matrix.TypeRedaction, Content: []byte(`{}`), Redacts: id}); err != nil {
		p.t.Fatal(err)
	}
}

func (p *player) entry(room matrix.RoomID, id matrix.EventID) Entry {
	p.t.Helper()
	e, err := p.Event(p.user, room, id)
	if err != nil {
		p.t.Fatal(err)
	}
	return e
}

// An event may come after what relates to it, and a redaction before what it takes away.
func TestRelationsComeInAnyOrder(t *testing.T) {
	a, b, room := pair(t)
	root := a.say(room, "root")
	// b does not have it yet.
	reply := b.relate(room, matrix.RelThread, root)
	edit := a.relate(room, matrix.RelReplace, root)
	a.post(b)
	b.post(a)
	for _, p := range []*player{a, b} {
		r := p.entry(room, root).Related
		if r == nil || r.Thread == nil || r.Thread.Count != 1 || r.Thread.Latest.ID() != reply || r.Edit == nil || r.Edit.ID() != edit {
			t.Fatalf("%+v", r)
		}
	}
	// The redaction of a reply comes first.
	second := a.relate(room, matrix.RelThread, root)
	raw := a.raw(room, second)
	a.redact(room, second)
	mail := a.mail(b)
	slices.Reverse(mail)
	for _, i := range mail {
		a.hand(b, i)
	}
	b.ingest(a, room, raw)
	for _, p := range []*player{a, b} {
		if r := p.entry(room, root).Related; r == nil || r.Thread == nil || r.Thread.Count != 1 || r.Thread.Latest.ID() != reply {
			t.Fatalf("%+v", r.Thread)
		}
	}
}

// TestRelationsAreWhatTheTimelineSays: after any sends and redactions, what the rows say is what reading everything says;
// also in a new process.
func TestRelationsAreWhatTheTimelineSays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := play(t, 1)
		room := p.create(Create{})
		ids := []matrix.EventID{p.say(room, "0")}
		rels := map[matrix.EventID][2]string{} // child: kind, target
		gone := map[matrix.EventID]bool{}
		nested := map[matrix.EventID]bool{}
		for range rapid.IntRange(1, 30).Draw(t, "n") {
			target := rapid.SampledFrom(ids).Draw(t, "target")
			switch kind := rapid.SampledFrom([]string{matrix.RelThread, matrix.RelReplace, matrix.RelReference, "say", "redact", "reopen"}).Draw(t, "what"); kind {
			case "say":
				ids = append(ids, p.say(room, "x"))
			case "redact":
				p.redact(room, target)
				gone[target] = true
			case "reopen":
				p.open()
			case matrix.RelThread:
				if nested[target] && !gone[target] {
					continue // refused
				}
				fallthrough
			default:
				id := p.relate(room, kind, target)
				rels[id], nested[id] = [2]string{kind, string(target)}, true
				ids = append(ids, id)
			}
		}
		for _, id := range ids {
			var threads, references []matrix.EventID
			var edit matrix.EventID
			for _, c := range ids {
				if gone[c] || rels[c][1] != string(id) {
					continue
				}
				switch rels[c][0] {
				case matrix.RelThread:
					threads = append(threads, c)
				case matrix.RelReference:
					references = append(references, c)
				case matrix.RelReplace:
					if edit = c; gone[id] || rels[id][0] == matrix.RelReplace {
						edit = ""
					}
				}
			}
			want := fmt.Sprintf("edit %v refs %v threads %d", edit, references, len(threads))
			if len(threads) > 0 {
				want += fmt.Sprint(" latest ", threads[len(threads)-1])
			}
			r := p.entry(room, id).Related
			if r == nil {
				r = &Related{}
			}
			got := "edit "
			if r.Edit != nil {
				got += string(r.Edit.ID())
			}
			got += fmt.Sprintf(" refs %v threads ", r.References)
			if r.Thread == nil {
				got += "0"
			} else {
				got += fmt.Sprintf("%d latest %v", r.Thread.Count, r.Thread.Latest.ID())
			}
			if got != want {
				t.Fatalf("%s:\n got %s\nwant %s", id, got, want)
			}
			for _, back := range []bool{false, true} {
				var got []matrix.EventID
				var from *store.Pos
				for {
					page, err := p.Relations(p.user, room, id, RelationQuery{Back: back, From: from, Limit: 2})
					if err != nil {
						t.Fatal(err)
					}
					for _, e := range page.Events {
						got = append(got, e.ID())
					}
					if !page.More {
						break
					}
					from = &page.End
				}
				var want []matrix.EventID
				for _, c := range ids {
					if !gone[c] && rels[c][1] == string(id) {
						want = append(want, c)
					}
				}
				if back {
					slices.Reverse(want)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("pages of %s: %v, want %v", id, got, want)
				}
			}
		}
	})
}
