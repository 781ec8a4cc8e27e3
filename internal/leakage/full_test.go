// SPDX-License-Identifier: Apache-2.0

package leakage_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"tarn/internal/leakage"
	"tarn/mailbox"
	"tarn/mailbox/front"
	"tarn/replicate"
)

// size is how large a report is made: `make leakage NODES=… DAYS=… SEEDS=…`.
type size struct {
	nodes, seeds int
	hours        int
	out          string // the repository, for build/leakage.json and docs/THREATS.md
}

func sizeOf(t *testing.T) size {
	number := func(name string, otherwise float64) float64 {
		v := os.Getenv("TARN_LEAKAGE_" + name)
		if v == "" {
			return otherwise
		}
		f, err := strconv.ParseFloat(v, 64)
		if err != nil || f <= 0 {
			t.Fatalf("TARN_LEAKAGE_%s=%q is no number above 0", name, v)
		}
		return f
	}
	if os.Getenv("TARN_LEAKAGE") == "" {
		t.Skip("`make leakage` runs it: half an hour")
	}
	return size{nodes: int(number("NODES", 100)), seeds: int(number("SEEDS", 1)), hours: max(1, int(number("DAYS", 0.5)*24)), out: os.Getenv("TARN_LEAKAGE")}
}

// samples are those of several worlds; the nodes of each are other ones.
type samples struct {
	activity []leakage.Sample
	pairs    []leakage.Score
}

func (s *samples) add(l *leakage.Log, o leakage.Observer, c *leakage.Chat, world int) {
	if o != leakage.Couriers {
		for _, x := range leakage.Activity(l, o, c.Chatting(), c.Uptimes) {
			x.Node += world * c.Nodes
			s.activity = append(s.activity, x)
		}
	}
	for _, x := range leakage.Link(l, o, c.Pairs()) {
		x.A, x.B = x.A+world*c.Nodes, x.B+world*c.Nodes
		s.pairs = append(s.pairs, x)
	}
}

const resamples = 1000

// observed are the samples of every observer of a kind of world.
type observed map[leakage.Observer]*samples

var observers = []leakage.Observer{leakage.Network, leakage.Courier, leakage.Couriers, leakage.Store, leakage.Disk, leakage.Both}

func (o observed) add(l *leakage.Log, c *leakage.Chat, world int) {
	for _, who := range observers {
		if o[who] == nil {
			o[who] = &samples{}
		}
		o[who].add(l, who, c, world)
	}
}

// TestReport makes the leakage report: it ends with an error if an attack is too weak to count, or if an aim is missed.
func TestReport(t *testing.T) {
	s := sizeOf(t)
	r := &leakage.Report{}
	list := func(name string) []string {
		return strings.FieldsFunc(os.Getenv(name), func(r rune) bool { return r == ',' })
	}
	only := list("TARN_LEAKAGE_ONLY")    // some experiments, to look at: nothing is written
	without := list("TARN_LEAKAGE_SKIP") // the report says that they were not made
	for _, part := range []struct {
		name string
		do   func(*testing.T, *leakage.Report)
	}{
		{"balanced", s.balanced}, {"covered", s.covered}, {"paranoid", s.paranoid}, {"tokens", s.tokens}, {"contact", s.contact},
		{"intersection", s.intersection}, {"equality", s.equality}, {"answers", s.answers}, {"capture", s.capture},
	} {
		if !slices.Contains(without, part.name) && (len(only) == 0 || slices.Contains(only, part.name)) {
			s.part(t, r, part.name, part.do)
		}
	}
	r.Notes = append(r.Notes, fmt.Sprintf("Made with NODES=%d, %d hours a world, SEEDS=%d.", s.nodes, s.hours, s.seeds))
	if len(without) > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("Not in this run, for want of time: %s.", strings.Join(without, ", ")))
	}
	text := r.Markdown()
	fmt.Println(text)
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	if len(only) > 0 {
		return
	}
	table, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(s.out, "build"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.out, "build", "leakage.json"), table, 0o644); err != nil {
		t.Fatal(err)
	}
	threats := filepath.Join(s.out, "docs", "THREATS.md")
	doc, err := os.ReadFile(threats)
	if err != nil {
		t.Fatal(err)
	}
	doc2, ok := leakage.Splice(string(doc), text)
	if !ok {
		t.Fatalf("%s has no marks for the report", threats)
	}
	if err := os.WriteFile(threats, []byte(doc2), 0o644); err != nil {
		t.Fatal(err)
	}
}

// part adds an experiment to the report: made now, or, if TARN_LEAKAGE_REUSE is set, what it gave before. So a report can
// be put together of parts that were run side by side (TARN_LEAKAGE_ONLY=name,name).
func (s size) part(t *testing.T, r *leakage.Report, name string, do func(*testing.T, *leakage.Report)) {
	dir := filepath.Join(s.out, "build", "leakage")
	path := filepath.Join(dir, fmt.Sprintf("part-%s-%d-%d-%d.json", name, s.nodes, s.hours, s.seeds))
	var p leakage.Report
	if b, err := os.ReadFile(path); err == nil && os.Getenv("TARN_LEAKAGE_REUSE") != "" {
		if err := json.Unmarshal(b, &p); err != nil {
			t.Fatal(err)
		}
	} else {
		do(t, &p)
		b, err := json.Marshal(&p)
		if err := errors.Join(err, os.MkdirAll(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.Rows, r.Notes = append(r.Rows, p.Rows...), append(r.Notes, p.Notes...)
}

const (
	worldStores   = 3
	worldCouriers = 6
)

// controls simulates a leaking design with the same people, and adds what each observer makes of it.
func (s size) controls(d leakage.Design, hours int, base uint64) observed {
	out := observed{}
	for seed := range s.seeds {
		c := leakage.NewChat(s.nodes, hours, false, base+uint64(seed))
		out.add(leakage.Simulate(d, c, worldStores, worldCouriers, base+uint64(seed)), c, seed)
	}
	return out
}

func (s size) balanced(t *testing.T, r *leakage.Report) {
	p := replicate.Balanced()
	real, sum := s.worlds(t, r, p, s.hours, 1)
	sum.note(r, p)
	if mean, p95 := sum.delays(); mean > 40*time.Second || p95 > 70*time.Second {
		t.Errorf("delivery takes %v on average, 95 %% within %v; aims: 40s and 70s", mean, p95)
	}
	queue, pond := s.controls(leakage.QueuePush, s.hours, 1), s.controls(leakage.PondInbox, s.hours, 1)
	eager, bare := s.controls(leakage.Unscheduled, s.hours, 1), s.controls(leakage.NoCover, s.hours, 1)
	uniform := s.controls(leakage.UniformDecoys, s.hours, 1)
	for _, x := range []struct {
		who           leakage.Observer
		design        leakage.Design
		control       observed
		linked        leakage.Design
		linkedControl observed
		aim           float64
	}{
		{leakage.Network, leakage.QueuePush, queue, leakage.QueuePush, queue, 0.53},
		{leakage.Courier, leakage.Unscheduled, eager, leakage.Unscheduled, eager, 0.53},
		{leakage.Couriers, "", nil, leakage.Unscheduled, eager, 0},
		{leakage.Store, leakage.PondInbox, pond, leakage.QueuePush, queue, 0.53},
		{leakage.Disk, leakage.PondInbox, pond, leakage.QueuePush, queue, 0.53},
		{leakage.Both, leakage.NoCover, bare, leakage.NoCover, bare, 0},
	} {
		attack := func(in []leakage.Sample) leakage.Estimate {
			return leakage.Bootstrap(leakage.Attack(in, 1), resamples, 1)
		}
		row := leakage.Row{Observer: x.who, Profile: p.Name, Seeds: s.seeds}
		a := row
		a.Task, a.Control, a.Aim = "idle or chatting, by the hour", string(x.design), x.aim
		if x.who == leakage.Both {
			a.Note = "everything, also whose boxes are read"
		}
		if x.control != nil {
			r.Add(a, attack(real[x.who].activity), attack(x.control[x.who].activity).AUC)
		}
		if x.who == leakage.Both {
			for i, name := range leakage.BothNames {
				b := row
				b.Task, b.Aim = "idle or chatting, by "+name, 0.70
				control := bare
				b.Control = string(leakage.NoCover)
				switch i {
				case leakage.BothGets:
					b.Control, control = string(leakage.QueuePush), queue
				case leakage.BothFresh:
					b.Note = "uniform decoys: " + fmt.Sprintf("%.2f", leakage.AUC(leakage.Single(uniform[x.who].activity, i)))
				}
				r.Add(b, leakage.Bootstrap(leakage.Single(real[x.who].activity, i), resamples, 1), leakage.AUC(leakage.Single(control[x.who].activity, i)))
			}
		}
		l := row
		l.Task, l.Control = "which nodes talk with each other", string(x.linked)
		if x.who == leakage.Store || x.who == leakage.Disk {
			l.Task = "which boxes are of one stream"
		}
		r.Add(l, leakage.Bootstrap(real[x.who].pairs, resamples, 1), leakage.AUC(x.linkedControl[x.who].pairs))
	}
}

// covered is the colluding pair against balanced with cover in every idle slot.
func (s size) covered(t *testing.T, r *leakage.Report) {
	p := replicate.Balanced()
	p.Name, p.CoverPut = "balanced, cover_put 1", 1
	hours := max(1, (s.hours+2)/3)
	real, sum := s.worlds(t, r, p, hours, 2)
	sum.note(r, p)
	bare := s.controls(leakage.NoCover, hours, 2)
	row := leakage.Row{Observer: leakage.Both, Profile: p.Name, Seeds: s.seeds, Control: string(leakage.NoCover)}
	for _, i := range []int{leakage.BothPuts, leakage.BothFresh} {
		row.Task, row.Aim = "idle or chatting, by "+leakage.BothNames[i], 0.60
		r.Add(row, leakage.Bootstrap(leakage.Single(real[leakage.Both].activity, i), resamples, 1), leakage.AUC(leakage.Single(bare[leakage.Both].activity, i)))
	}
	row.Task, row.Aim = "which nodes talk with each other", 0
	r.Add(row, leakage.Bootstrap(real[leakage.Both].pairs, resamples, 1), leakage.AUC(bare[leakage.Both].pairs))
}

// paranoid is halves that go through three couriers, in a smaller world: each of its nodes costs three times as much.
func (s size) paranoid(t *testing.T, r *leakage.Report) {
	p, err := replicate.ParseProfile("paranoid")
	if err != nil {
		t.Fatal(err)
	}
	s.nodes = max(12, s.nodes/2)
	hours := max(1, s.hours/4)
	real, sum := s.worlds(t, r, p, hours, 3)
	sum.note(r, p)
	s.few(r, leakage.Row{Profile: p.Name, Seeds: s.seeds}, real, hours, 3)
}

// tokens is stores that take boxes only for tokens: what draws them, shows them, and gives them to contacts is on the
// schedule as well.
func (s size) tokens(t *testing.T, r *leakage.Report) {
	p := replicate.Balanced()
	s.nodes, s.seeds = max(12, s.nodes*2/5), 1
	hours := max(1, s.hours/4)
	c := leakage.NewChat(s.nodes, hours, false, 4)
	o := s.kept(t, "tokens", plan{chat: c, profile: p, stores: worldStores, couriers: worldCouriers, seed: 4, warm: warmUp(p), tokens: true})
	p.Name = `balanced, deposit = "tokens"`
	real, sum := observed{}, &totals{}
	real.add(o.Log, c, 0)
	sum.add(&o, c)
	sum.note(r, p)
	s.few(r, leakage.Row{Profile: p.Name, Seeds: 1}, real, hours, 4)
}

// few adds the rows that a smaller world is worth.
func (s size) few(r *leakage.Report, row leakage.Row, real observed, hours int, base uint64) {
	pond, eager, bare := s.controls(leakage.PondInbox, hours, base), s.controls(leakage.Unscheduled, hours, base), s.controls(leakage.NoCover, hours, base)
	attack := func(in []leakage.Sample) leakage.Estimate {
		return leakage.Bootstrap(leakage.Attack(in, 1), resamples, 1)
	}
	for _, x := range []struct {
		who     leakage.Observer
		design  leakage.Design
		control observed
	}{{leakage.Courier, leakage.Unscheduled, eager}, {leakage.Store, leakage.PondInbox, pond}} {
		row := row
		row.Observer, row.Task, row.Control, row.Aim = x.who, "idle or chatting, by the hour", string(x.design), 0.53
		r.Add(row, attack(real[x.who].activity), attack(x.control[x.who].activity).AUC)
	}
	row.Observer, row.Task, row.Control = leakage.Couriers, "which nodes talk with each other", string(leakage.Unscheduled)
	r.Add(row, leakage.Bootstrap(real[leakage.Couriers].pairs, resamples, 1), leakage.AUC(eager[leakage.Couriers].pairs))
	row.Observer, row.Task, row.Control = leakage.Both, "idle or chatting, by "+leakage.BothNames[leakage.BothPuts], string(leakage.NoCover)
	r.Add(row, leakage.Bootstrap(leakage.Single(real[leakage.Both].activity, leakage.BothPuts), resamples, 1),
		leakage.AUC(leakage.Single(bare[leakage.Both].activity, leakage.BothPuts)))
	row.Task, row.Note = "which nodes talk with each other", "all couriers and stores"
	r.Add(row, leakage.Bootstrap(real[leakage.Both].pairs, resamples, 1), leakage.AUC(bare[leakage.Both].pairs))
}

// totals are sums over worlds.
type totals struct {
	delivery  []time.Duration
	late      int
	nodeHours float64
	bytes     int64
	said      int
}

func (s size) worlds(t *testing.T, r *leakage.Report, p replicate.Profile, hours int, base uint64) (observed, *totals) {
	out, sum := observed{}, &totals{}
	for seed := range s.seeds {
		c := leakage.NewChat(s.nodes, hours, false, base+uint64(seed))
		o := s.kept(t, fmt.Sprint(p.Name, "-", base+uint64(seed)),
			plan{chat: c, profile: p, stores: worldStores, couriers: worldCouriers, seed: base + uint64(seed), warm: warmUp(p)})
		out.add(o.Log, c, seed)
		sum.add(&o, c)
	}
	return out, sum
}

// kept is live, but for a world that was run before when TARN_LEAKAGE_REUSE is set: to try another attack on the same
// logs, which lie in build/leakage.
func (s size) kept(t *testing.T, name string, p plan) outcome {
	t.Helper()
	dir := filepath.Join(s.out, "build", "leakage")
	path := filepath.Join(dir, fmt.Sprintf("%s-%d-nodes-%d-hours.gob", strings.ReplaceAll(name, " ", "-"), p.chat.Nodes, p.chat.Hours))
	var o outcome
	if os.Getenv("TARN_LEAKAGE_REUSE") != "" {
		if b, err := os.ReadFile(path); err == nil {
			if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&o); err != nil {
				t.Fatal(err)
			}
			return o
		}
	}
	o = live(t, name, p)
	var b bytes.Buffer
	if err := errors.Join(gob.NewEncoder(&b).Encode(o), os.MkdirAll(dir, 0o755), os.WriteFile(path, b.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	return o
}

// warmUp is how long befriending takes at most.
func warmUp(p replicate.Profile) time.Duration {
	if p.Hops > 1 {
		return 200*p.Frame + 30*p.Lag
	}
	return 200 * p.Frame
}

func (x *totals) add(o *outcome, c *leakage.Chat) {
	x.delivery = append(x.delivery, o.Delivery...)
	x.late += o.Late
	x.nodeHours += float64(c.Nodes * c.Hours)
	for _, p := range o.Log.Packets {
		if p.At >= 0 && p.At < time.Duration(c.Hours)*time.Hour {
			x.bytes += int64(p.Size)
		}
	}
	x.said += len(o.Delivery)
}

func (x *totals) delays() (mean, p95 time.Duration) {
	if len(x.delivery) == 0 {
		return 0, 0
	}
	slices.Sort(x.delivery)
	for _, d := range x.delivery {
		mean += d / time.Duration(len(x.delivery))
	}
	return mean, x.delivery[len(x.delivery)*95/100]
}

func (x *totals) note(r *leakage.Report, p replicate.Profile) {
	mean, p95 := x.delays()
	r.Notes = append(r.Notes,
		fmt.Sprintf("%s: %.0f node-hours, half of them with a conversation (%.1f messages a node and hour of chat, about %d contacts a node), %d stores, %d couriers.",
			p.Name, x.nodeHours, 2*float64(x.said)/x.nodeHours, leakage.Degree, worldStores, worldCouriers),
		fmt.Sprintf("%s: delivery from send to the peer's room: mean %.1f s, 95 %% within %.1f s, of %d messages; %d did not arrive within their hour (aims: 40 s, 70 s).",
			p.Name, mean.Seconds(), p95.Seconds(), len(x.delivery), x.late),
		fmt.Sprintf("%s: %.1f MB a node and day between node and tor.", p.Name, float64(x.bytes)/x.nodeHours*24/1e6))
}

// intersection is days of coming and going, at a slow profile: what counts is who is up when.
func (s size) intersection(t *testing.T, r *leakage.Report) {
	p, err := replicate.ParseProfile("economy")
	if err != nil {
		t.Fatal(err)
	}
	const days = 7
	s.nodes = max(12, s.nodes/2)
	c := leakage.NewChat(s.nodes, days*24, true, 1)
	o := s.kept(t, "intersection", plan{chat: c, profile: p, stores: worldStores, couriers: worldCouriers, seed: 1, warm: warmUp(p)})
	real := leakage.Intersect(o.Log, c, leakage.Degree)
	control := leakage.Intersect(leakage.Simulate(leakage.QueuePush, c, worldStores, 0, 1), c, 1)
	r.Add(leakage.Row{Observer: "network and store", Task: "which nodes talk with each other, by who was up when", Profile: p.Name, Seeds: 1,
		Control: string(leakage.QueuePush) + ", named queues",
		Note: fmt.Sprintf("%d days; a true writer's place among %d nodes: %.0f, of a named queue after %.0f sittings: %.0f", days, s.nodes, real.Left,
			control.Deposits, control.Left)},
		leakage.Bootstrap(real.Scores, resamples, 1), leakage.AUC(control.Scores))
}

// equality is not a statistic: with the same seed every packet is the same, whether people talk or not.
func (s size) equality(t *testing.T, r *leakage.Report) {
	talking, silent := twins(t)
	n, why := same(talking.Log, silent.Log, twinTime)
	e := leakage.Estimate{AUC: 0.5, Low: 0.5, High: 0.5, N: n}
	if why != "" {
		e.AUC, e.Low, e.High = 1, 1, 1
		t.Errorf("the network sees conversations: %s", why)
	}
	c := leakage.NewChat(6, 1, false, 1)
	quiet := *c
	quiet.Conversations = nil
	control := 0.5
	if _, why := same(leakage.Simulate(leakage.Unscheduled, c, 2, 3, 1), leakage.Simulate(leakage.Unscheduled, &quiet, 2, 3, 1), time.Hour); why != "" {
		control = 1
	}
	r.Add(leakage.Row{Observer: leakage.Network, Task: "one seed, with and without conversations: is any packet's time or size another", Profile: "custom", Seeds: 1,
		Control: string(leakage.Unscheduled), Aim: 0.5}, e, control)
}

// answers is the time that a store takes to answer, on a real disk and by a real clock.
func (s size) answers(t *testing.T, r *leakage.Report) {
	e, pair := tellApart(answerTimes(t, front.DefaultAnswerTime, 400))
	control, _ := tellApart(answerTimes(t, -1, 200))
	r.Add(leakage.Row{Observer: "who watches a store's connections", Task: "which kind of request it is, by the time of the answer", Profile: "any", Seeds: 1,
		Control: "answers as soon as they are ready", Note: "the worst two kinds: " + pair, Aim: 0.55}, e, control.AUC)
}

// capture is what really goes between a node and its tor process.
func (s size) capture(t *testing.T, r *leakage.Report) {
	for _, courier := range []bool{false, true} {
		exchanges, sessions, frames, pages, odd := captureTalk(t, courier).sizes()
		if len(odd) > 0 {
			t.Errorf("with a real tor, other sizes than the constants: %v", odd)
		}
		r.Notes = append(r.Notes, fmt.Sprintf("Captured on loopback between a node and a real tor, while a contact is made and messages come and go (courier: %v): "+
			"%d exchanges, %d sessions with %d frames and %d page frames; %d connections with bytes that are no multiple of %d up, or of %d and %d down.",
			courier, exchanges, sessions, frames, pages, len(odd), mailbox.UpSize, mailbox.DownSize, mailbox.PageFrameSize))
	}
}
