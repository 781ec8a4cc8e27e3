// SPDX-License-Identifier: Apache-2.0

package load

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// figure is one line of the table.
type figure struct {
	name, unit string
	aim        float64 // 0: none
	more       bool    // more is better
}

// figures are all that is measured, in the order of the table. Those of the second part are the machine's, without us.
var figures = []figure{
	{name: "send, 1 client: p50", unit: "ms"},
	{name: "send, 1 client: p99", unit: "ms"},
	{name: "send, 1 client: rate", unit: "/s", more: true},
	{name: "send, 1 client: CPU", unit: "ms", aim: 2},
	{name: "send, 32 clients: p50", unit: "ms"},
	{name: "send, 32 clients: p99", unit: "ms"},
	{name: "send, 32 clients: rate", unit: "/s", more: true},
	{name: "send, 32 clients: CPU", unit: "ms", aim: 2},
	{name: "send, 8 clients in the long room: rate", unit: "/s", aim: 1000, more: true},
	{name: "send, 8 clients in the long room: CPU", unit: "ms", aim: 2},
	{name: "send to 1,000 members, all idle: CPU", unit: "ms", aim: 2},
	{name: "wake-up of a /sync: p50", unit: "ms", aim: 10},
	{name: "wake-up of a /sync: p99", unit: "ms"},
	{name: "a message to 1,000 waiting /syncs: last one has it", unit: "ms"},
	{name: "first /sync, all rooms", unit: "ms", aim: 150},
	{name: "first /sync, all rooms, after a restart", unit: "ms"},
	{name: "first /sync, all rooms: CPU", unit: "ms"},
	{name: "first sliding sync, 20 rooms", unit: "ms"},
	{name: "/sync with nothing new: CPU", unit: "ms"},
	{name: "/messages through the long room", unit: "events/s", more: true},
	{name: "/messages through the long room: per core", unit: "events/s", aim: 10_000, more: true},
	{name: "creating a room: CPU", unit: "ms"},
	{name: "joining a room of 1,000: p50", unit: "ms"},
	{name: "joining a room of 1,000: CPU", unit: "ms", aim: 10},
	{name: "first /sync, a room of 1,000 with lazy members", unit: "ms"},
	{name: "media, 8 MiB up", unit: "MB/s", more: true},
	{name: "media, 8 MiB down", unit: "MB/s", more: true},
	{name: "media, 32 KiB up: p50", unit: "ms"},
	{name: "disk an event", unit: "bytes", aim: 2000},
	{name: "start to the first answer", unit: "ms"},
	{name: "memory at the start", unit: "MiB", aim: 60},
	{name: "memory after the load", unit: "MiB", aim: 150},
	{name: "memory at most", unit: "MiB"},
	// None, but for Badger's two compactors, which look around twenty times a second, work or none: 70 ms in ten seconds.
	{name: "CPU of ten idle seconds at the start", unit: "ms", aim: 100},
	{name: "CPU of ten idle seconds after the load", unit: "ms", aim: 100},
	{name: "CPU of ten seconds of 1,000 waiting /syncs", unit: "ms", aim: 100},
	{name: "memory of a waiting /sync", unit: "KiB"},

	{name: "bare: synced write of 700 bytes, 1 writer: p50", unit: "ms"},
	{name: "bare: synced write of 700 bytes, 1 writer: p99", unit: "ms"},
	{name: "bare: synced writes of 700 bytes, 32 writers", unit: "/s", more: true},
	{name: "bare: HTTP echo, 1 client: p50", unit: "ms"},
	{name: "bare: HTTP echo, 1 client: p99", unit: "ms"},
	{name: "bare: HTTP echoes, 32 clients", unit: "/s", more: true},
}

// report is what all runs gave.
type report struct {
	Machine string               `json:"machine"`
	When    time.Time            `json:"when"`
	Others  []float64            `json:"cores_used_by_others"` // a run
	Base    map[string][]float64 `json:"base"`                 // by the names above, a value a run
	Grown   map[string][]float64 `json:"grown"`

	grown bool // what is measured now
}

// put notes a value.
func (r *report) put(name string, v float64) {
	if !slices.ContainsFunc(figures, func(f figure) bool { return f.name == name }) {
		panic("no such figure: " + name)
	}
	into := r.Base
	if r.grown {
		into = r.Grown
	}
	into[name] = append(into[name], v)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantile of times.
func quantile(took []time.Duration, q float64) time.Duration {
	if len(took) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(took))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s)%2 == 0 {
		return (s[len(s)/2-1] + s[len(s)/2]) / 2
	}
	return s[len(s)/2]
}

func (f *figure) best(v []float64) float64 {
	if f.more {
		return slices.Max(v)
	}
	return slices.Min(v)
}

// missed says that even the best run missed the aim: the machine is shared, and only makes things worse.
func (f *figure) missed(v []float64) bool {
	if f.aim == 0 || len(v) == 0 {
		return false
	}
	if f.more {
		return f.best(v) < f.aim
	}
	return f.best(v) > f.aim
}

func (f *figure) show(v []float64, aimed bool) string {
	if len(v) == 0 {
		return ""
	}
	out := number(median(v))
	if len(v) > 1 {
		out += " (" + number(f.best(v)) + ")"
	}
	if aimed && f.missed(v) {
		out += " **missed**"
	}
	return out
}

// number shows three digits.
func number(v float64) string {
	digits := 0
	if v != 0 {
		digits = max(0, 2-int(math.Floor(math.Log10(math.Abs(v)))))
	}
	s := strconv.FormatFloat(v, 'f', min(digits, 3), 64)
	whole, frac, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if frac != "" {
		return whole + "." + frac
	}
	return whole
}

func (r *report) markdown() string {
	var b strings.Builder
	runs, grown := len(r.Others), len(r.Grown[figures[0].name])
	fmt.Fprintf(&b, "%s, %s; runs: %d, of which %d have grown", r.When.Format(time.DateOnly), r.Machine, runs, grown)
	if runs > 1 {
		b.WriteString(", median (best)")
	}
	fmt.Fprintf(&b, "; other programs used %s to %s of the machine's cores meanwhile.\n", number(slices.Min(r.Others)), number(slices.Max(r.Others)))
	fmt.Fprintf(&b, "\n| | aim | %d rooms, %s events in the long room | ten times as much |\n|---|--:|--:|--:|\n", baseRooms, number(baseEvents))
	for _, f := range figures {
		aim := ""
		if f.aim != 0 {
			aim = map[bool]string{true: "≥ ", false: "≤ "}[f.more] + number(f.aim)
		}
		fmt.Fprintf(&b, "| %s, %s | %s | %s | %s |\n", f.name, f.unit, aim, f.show(r.Base[f.name], true), f.show(r.Grown[f.name], false))
	}
	return b.String()
}

// The marks in docs/operating.md between which the table goes.
const (
	tableBegins = "<!-- figures: made by `make figures`, do not edit -->\n"
	tableEnds   = "<!-- end of the figures -->\n"
)

// TestFigures is `make figures`: it measures, prints the table, writes it into docs/operating.md and build/figures.json, and
// fails when an aim is missed.
func TestFigures(t *testing.T) {
	repo := os.Getenv("TARN_FIGURES")
	if repo == "" {
		t.Skip("`make figures` runs it: some minutes")
	}
	runs := 1
	if s := os.Getenv("TARN_FIGURES_RUNS"); s != "" {
		var err error
		if runs, err = strconv.Atoi(s); err != nil || runs < 0 {
			t.Fatalf("TARN_FIGURES_RUNS=%q is no number of runs", s)
		}
	}
	r := &report{Base: map[string][]float64{}, Grown: map[string][]float64{}}
	file := filepath.Join(repo, "build", "figures.json")
	if os.Getenv("TARN_FIGURES_ADD") != "" { // to the runs of before, made of the same code
		raw, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(raw, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r.Machine, r.When = machine(), time.Now().UTC()
	for range runs {
		before := foreign()
		begun := time.Now()
		measure(t, r, os.Getenv("TARN_FIGURES_BASE") == "")
		r.Others = append(r.Others, max(0, float64(foreign()-before)/float64(time.Since(begun))))
	}
	text := r.markdown()
	fmt.Println(text)
	for _, f := range figures {
		if f.missed(r.Base[f.name]) { // of ten times the rooms a first /sync has ten times as much to say
			t.Errorf("missed: %s", f.name)
		}
	}
	raw, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(repo, "build"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(raw, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	if len(r.Grown) == 0 {
		return // a look at a part of it
	}
	file = filepath.Join(repo, "docs", "operating.md")
	doc, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(doc), tableBegins)
	_, after, ok2 := strings.Cut(rest, tableEnds)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no marks for the figures", file)
	}
	if err := os.WriteFile(file, []byte(before+tableBegins+text+tableEnds+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// machine names the processor.
func machine() string {
	b, _ := os.ReadFile("/proc/cpuinfo") // without it the table has no name of it
	for line := range strings.Lines(string(b)) {
		if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return fmt.Sprintf("%d × %s", runtime.NumCPU(), strings.TrimSpace(v))
		}
	}
	return fmt.Sprintf("%d × %s", runtime.NumCPU(), runtime.GOARCH)
}
