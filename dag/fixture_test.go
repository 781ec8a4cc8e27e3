// SPDX-License-Identifier: Apache-2.0

//go:build goexperiment.jsonv2 || go1.27

package dag_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"tarn/dag"
	"tarn/dag/dagtest"
	"tarn/matrix"
)

var update = flag.Bool("update", false, "write the fixture rooms anew")

// fixtureLine is an event of a fixture room; the last line has what came of the room.
type fixtureLine struct {
	ID    matrix.EventID   `json:"id,omitempty"`
	Event json.RawMessage  `json:"event,omitempty"`
	Heads []matrix.EventID `json:"heads,omitempty"`
	State []matrix.EventID `json:"state,omitempty"`
}

// The rooms of testdata were forked as in TestDemotionAndBanWin… and must always be read to the same ids, heads and state:
// another answer would split rooms that exist. Write them anew (-update) only with a new room version.
func TestFixtureRoomsAreReadAsEver(t *testing.T) {
	eachVersion(t, func(t *testing.T, v matrix.RoomVersion) {
		path := filepath.Join("testdata", "room-v"+string(v)+".jsonl")
		if *update {
			writeFixture(t, v, path)
		}
		var r *dagtest.Room
		n := 0
		var end fixtureLine
		for _, l := range readLines[fixtureLine](t, path) {
			if l.Event == nil {
				end = l
				continue
			}
			ev, err := matrix.Parse(v, l.Event)
			if err != nil {
				t.Fatal(err)
			}
			if ev.ID() != l.ID || ev.Redacted() {
				t.Errorf("event %d has id %s, had %s", n, ev.ID(), l.ID)
			}
			if err := ev.Verify(dagtest.Keys(servers...)); err != nil {
				t.Error(err)
			}
			if r == nil {
				r = dagtest.NewRoom(ev.Room(), v)
			}
			insert(t, r, ev)
			n++
		}
		if n < 15 || r.Waiting() > 0 {
			t.Fatalf("%d events, %d waiting", n, r.Waiting())
		}
		if !slices.Equal(r.Heads, end.Heads) || !slices.Equal(sortedState(r.Current), end.State) {
			t.Errorf("heads %v, had %v; state %v", r.Heads, end.Heads, what(&dagtest.Branch{View: r.View}, r.Current))
		}
	})
}

// readLines reads a file of one JSON object a line.
func readLines[T any](t *testing.T, path string) (all []T) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		var l T
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		all = append(all, l)
	}
	return all
}

func sortedState(s dag.State) []matrix.EventID {
	ids := make([]matrix.EventID, 0, len(s))
	for _, id := range s {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func writeFixture(t *testing.T, v matrix.RoomVersion, path string) {
	b := open(t, v, map[matrix.UserID]int{bob.ID: 50}, bob, carol, dave)
	his := b.Fork()
	b.Must(alice, matrix.TypePowerLevels, key(""), levels(v, map[matrix.UserID]int{bob.ID: 0}))
	if _, err := b.Member(alice, bob, "ban"); err != nil {
		t.Fatal(err)
	}
	b.Must(alice, matrix.TypeTopic, key(""), `{"topic":"hers"}`)
	his.Now = his.Now.Add(-time.Hour)
	his.Must(bob, matrix.TypePowerLevels, key(""), levels(v, map[matrix.UserID]int{bob.ID: 50, carol.ID: 50}))
	if _, err := his.Member(bob, dave, "ban"); err != nil {
		t.Fatal(err)
	}
	his.Must(bob, matrix.TypeName, key(""), `{"name":"his \u00e9 \ud83d\ude00"}`)
	his.Must(carol, matrix.TypeMessage, nil, `{"body":"<hello> & \u2028"}`)
	if err := b.Merge(his); err != nil {
		t.Fatal(err)
	}
	b.Must(alice, matrix.TypeMessage, nil, `{"body":"together again"}`)
	r := deliver(t, b)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, ev := range *b.Ord {
		// By hand: encoding/json would write U+2028 as an escape, which is not canonical.
		if _, err := fmt.Fprintf(f, `{"id":%q,"event":%s}`+"\n", ev.ID(), ev.Raw()); err != nil {
			t.Fatal(err)
		}
	}
	if err := json.NewEncoder(f).Encode(fixtureLine{Heads: r.Heads, State: sortedState(r.Current)}); err != nil {
		t.Fatal(err)
	}
}
