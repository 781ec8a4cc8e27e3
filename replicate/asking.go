// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tarn/bundle"
	"tarn/matrix"
	"tarn/room"
	"tarn/store"
)

// Questions that a contact is asked and answers of ours wait in the outbox like all else, so what a client wants makes no frame. What they mean is
// package room's (asking.go, answering.go).

// askPace is how many frames a contact has to answer before the next one is asked: twice what 95 of 100 boxes need.
const askPace = 12

// tendQuestions follows what is asked until ctx ends.
func (e *Engine) tendQuestions(ctx context.Context) {
	for {
		frame := e.profile.Load().Frame
		timer := time.NewTimer(2 * frame)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := errors.Join(e.rooms.Tend(time.Now(), askPace*frame), e.goOnWithout(ctx)); err != nil {
			e.log.Warn("following what contacts are asked")
			e.log.Debug("following what contacts are asked", "err", err)
		}
	}
}

// encodeAsking makes the record of a question or an answer.
func (e *Engine) encodeAsking(c *contact, it store.Item) (bundle.Record, error) {
	if it.Kind == store.ItemQuestion {
		var q room.Ask
		if err := json.Unmarshal(it.Data, &q); err != nil {
			return bundle.Record{}, fmt.Errorf("%w: %w", errUnsendable, err)
		}
		rec, err := bundle.Ask{ID: q.ID, Kind: bundle.AskKind(q.Kind), Room: q.Room, User: q.User, Text: q.Text, Event: q.Event,
			Missing: q.Missing, Have: q.Have, Most: uint64(q.Most)}.Record()
		if err != nil {
			err = fmt.Errorf("%w: %w", errUnsendable, err)
		}
		return rec, err
	}
	a, err := e.rooms.PackAnswer(c.name, it.Data)
	if err != nil {
		return bundle.Record{}, err
	}
	out := bundle.Answer{ID: a.ID, Kind: bundle.AnswerKind(a.Kind), Room: a.Room, Data: a.Data}
	for _, s := range a.Servers {
		out.Servers = append(out.Servers, string(s))
	}
	if t := a.Template; t != nil {
		out.Template = bundle.Template{Version: t.Version, Depth: uint64(t.Depth), PrevEvents: t.PrevEvents, AuthEvents: t.AuthEvents,
			Authoriser: string(t.Authoriser), Stripped: t.Stripped}
	}
	if s := a.Snapshot; s != nil {
		out.Snapshot = bundle.Snapshot{Room: s.Room, Version: s.Version, Event: s.Event, Heads: s.Heads, Events: s.Events, State: s.State, Certificates: s.Certificates}
	}
	if o := a.Older; o != nil {
		out.Older = bundle.Older{Events: o.Events, Unshown: o.Unshown, Leaned: o.Leaned, Certificates: o.Certificates}
		for _, s := range o.States {
			out.Older.States = append(out.Older.States, bundle.OlderState(s))
		}
	}
	rec, err := out.Record()
	if err != nil { // a room whose state is larger than a record may be
		rec, err = bundle.Answer{ID: a.ID, Kind: bundle.AnswerNo}.Record()
	}
	return rec, err
}

// takeQuestion and takeReply give records to package room.
func (e *Engine) takeQuestion(c *contact, data []byte) error {
	q, err := bundle.ParseAsk(data)
	if err != nil {
		return refuse(err)
	}
	return permanent(e.rooms.TakeQuestion(c.name, room.Ask{ID: q.ID, Kind: byte(q.Kind), Room: q.Room, User: q.User, Text: q.Text, Event: q.Event,
		Missing: q.Missing, Have: q.Have, Most: int(q.Most)}))
}

func (e *Engine) takeReply(ctx context.Context, c *contact, data []byte) error {
	b, err := bundle.ParseAnswer(data)
	if err != nil {
		return refuse(err)
	}
	a := room.Answer{ID: b.ID, Kind: byte(b.Kind), Room: b.Room, Data: b.Data}
	for _, s := range b.Servers {
		a.Servers = append(a.Servers, matrix.ServerName(s))
	}
	switch b.Kind {
	case bundle.AnswerTemplate:
		t := b.Template
		a.Template = &room.Template{Version: t.Version, Depth: int64(t.Depth), PrevEvents: t.PrevEvents, AuthEvents: t.AuthEvents,
			Authoriser: matrix.UserID(t.Authoriser), Stripped: t.Stripped}
	case bundle.AnswerOlder:
		o := b.Older
		a.Older = &room.OlderPage{Events: o.Events, Unshown: o.Unshown, Leaned: o.Leaned, Certificates: o.Certificates}
		for _, s := range o.States {
			a.Older.States = append(a.Older.States, room.OlderState(s))
		}
	case bundle.AnswerSnapshot:
		s := b.Snapshot
		a.Snapshot = &room.Snapshot{Room: s.Room, Version: s.Version, Event: s.Event, Heads: s.Heads, Events: s.Events, State: s.State, Certificates: s.Certificates}
	}
	return permanent(e.rooms.TakeAnswer(ctx, c.name, a))
}
