// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"
)

// size is what a run is to be. `make soak NODES=… ROOMS=… DAYS=… SEED=… FRAME=… TALK=…` sets it by the environment.
type size struct {
	nodes, rooms int
	days         float64
	seed         uint64
	frame        time.Duration
	talk         float64 // messages a room and day
	encrypted    float64 // share of rooms
	largest      int     // members of a room
	clique       bool    // everybody is everybody's contact
	strangers    bool    // encrypted rooms have members whose nodes are no contacts
	faults       bool
	hostile      int // nodes, the first ones
	verbose      bool
	out          string
}

func sizeOf(t *testing.T) size {
	out := os.Getenv("TARN_SOAK")
	if out == "" {
		t.Skip("make shortsoak, make soak")
	}
	s := size{nodes: 50, days: 30, seed: 1, frame: 5 * time.Minute, talk: 2, encrypted: 0.4, largest: 8, faults: true, out: out}
	number := func(name string, v float64) float64 {
		text := os.Getenv("TARN_SOAK_" + name)
		if text == "" {
			return v
		}
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || f < 0 {
			t.Fatalf("TARN_SOAK_%s=%q is no number", name, text)
		}
		return f
	}
	s.nodes, s.days, s.seed = int(number("NODES", float64(s.nodes))), number("DAYS", s.days), uint64(number("SEED", float64(s.seed)))
	if s.rooms = int(number("ROOMS", float64(s.rooms))); s.rooms == 0 {
		s.rooms = 2 * s.nodes
	}
	s.frame = time.Duration(number("FRAME", s.frame.Seconds()) * float64(time.Second))
	s.talk, s.encrypted = number("TALK", s.talk), number("ENCRYPTED", s.encrypted)
	s.largest = int(number("LARGEST", float64(s.largest)))
	s.clique, s.faults, s.verbose = number("CLIQUE", float64(boolInt(s.clique))) > 0, number("FAULTS", float64(boolInt(s.faults))) > 0, number("VERBOSE", 0) > 0
	if s.faults {
		s.hostile = s.nodes / 10
	}
	s.hostile = int(number("HOSTILE", float64(s.hostile)))
	s.strangers = number("STRANGERS", float64(boolInt(s.strangers))) > 0
	return s
}

// TestSoak lives the days and asks everybody what they have.
func TestSoak(t *testing.T) {
	s := sizeOf(t)
	wall := time.Now()
	cryptotest.SetGlobalRandom(t, s.seed)
	var w *world
	var found []finding
	synctest.Test(t, func(t *testing.T) {
		w = newWorld(t, s)
		defer w.net.Close()
		w.befriend()
		t.Logf("contacts after %v of fake time", time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)))
		w.start = time.Now()
		for _, n := range w.nodes {
			if err := n.engine.SetProfile(w.profile()); err != nil {
				t.Fatal(err)
			}
		}
		w.story()
		w.play(w.start.Add(w.days()))
		w.heal()
		found = w.settle(max(12*24*time.Hour, 500*s.frame))
		w.sum()
		for _, n := range w.nodes {
			n.stop()
			n.kv.Close()
		}
	})
	w.r.Wall = time.Since(wall).Seconds()
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	w.r.Memory = int64(mem.Sys >> 20)
	for i, f := range found {
		if i == 40 && !s.verbose {
			t.Errorf("… and %d more", len(found)-i)
			break
		}
		t.Error(f)
	}
	fmt.Print(w.r.String())
	if !w.r.Good() {
		t.Errorf("seed %d: %d lost, %d doubled, %d undecryptable, %d diverged", s.seed, w.r.Lost, w.r.Doubled, w.r.Undecryptable, w.r.Diverged)
	}
	if w.r.Messages == 0 || w.r.Shown == 0 {
		t.Error("nobody wrote anything: the run shows nothing")
	}
	if s.out != "" {
		dir := filepath.Join(s.out, "build")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "soak.json"), w.r.JSON(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// sum counts.
func (w *world) sum() {
	var delays []time.Duration
	for _, m := range w.said {
		if m.id == "" {
			continue
		}
		w.r.Messages++
		if m.room.encrypted {
			w.r.Encrypted++
		}
		for who, at := range m.heard {
			if who != m.from.n && m.at.Before(w.start.Add(w.days())) { // at the end nobody looks often
				delays = append(delays, at.Sub(m.at))
			}
		}
	}
	if slices.Sort(delays); len(delays) > 0 {
		w.r.Delay = delays[len(delays)/2].Seconds()
	}
	for _, g := range w.rooms {
		w.r.Events += g.events
	}
	for _, b := range w.boxes[:stores] {
		w.r.Boxes += b.Boxes()
	}
	for _, n := range w.nodes {
		w.r.Frames += n.frames.Load()
	}
}
