// SPDX-License-Identifier: Apache-2.0

package leakage

import (
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestAUCIsTheShareOfRightlyOrderedPairs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 60).Draw(t, "n")
		scores := make([]Score, n)
		for i := range scores {
			scores[i] = Score{Value: float64(rapid.IntRange(0, 9).Draw(t, "value")), True: i == 0 || i > 1 && rapid.Bool().Draw(t, "true"), A: i, B: i}
		}
		var right, all float64
		for _, a := range scores {
			for _, b := range scores {
				if a.True && !b.True {
					all++
					switch {
					case a.Value > b.Value:
						right++
					case a.Value == b.Value:
						right += 0.5
					}
				}
			}
		}
		if got := AUC(scores); math.Abs(got-right/all) > 1e-9 {
			t.Errorf("%v, want %v", got, right/all)
		}
	})
	if !math.IsNaN(AUC([]Score{{True: true}})) {
		t.Error("an AUC of one kind alone")
	}
}

// noise is node-hours whose features tell nothing but for what shift adds to the true ones.
func noise(nodes, hours int, shift float64, seed uint64) (out []Sample) {
	rng := rand.New(rand.NewPCG(seed, 1))
	for n := range nodes {
		base := rng.NormFloat64() // nodes differ
		for h := range hours {
			s := Sample{Node: n, Hour: h, True: rng.IntN(2) == 0}
			for range 10 {
				s.Features = append(s.Features, base+rng.NormFloat64())
			}
			if s.True {
				s.Features[3] += shift
			}
			out = append(out, s)
		}
	}
	return out
}

func TestAttackFindsWhatIsThereAndNothingElse(t *testing.T) {
	inside := 0
	for seed := range uint64(10) {
		e := Bootstrap(Attack(noise(50, 12, 0, seed), seed), 200, seed)
		if math.Abs(e.AUC-0.5) > 0.08 {
			t.Errorf("from nothing it makes %.3f", e.AUC)
		}
		if e.Low <= 0.5 && 0.5 <= e.High {
			inside++
		}
	}
	if inside < 7 {
		t.Errorf("0.5 lies in %d of 10 intervals of 95 %%", inside)
	}
	// A shift of one deviation, seen through the nodes' own: at best 0.76 alone.
	if e := Bootstrap(Attack(noise(50, 12, 1, 1), 1), 200, 1); e.AUC < 0.7 || e.Low < 0.6 {
		t.Errorf("it finds %v of a plain shift", e)
	}
	// What only a stump sees: true is far from the mean, either way.
	s := noise(50, 12, 0, 2)
	for i := range s {
		if s[i].Features[5] = 0.5; s[i].True {
			s[i].Features[5] = 3 * float64(i%2)
		}
	}
	if e := AUC(Attack(s, 1)); e < 0.9 {
		t.Errorf("it finds %.3f of what is not linear", e)
	}
}

func TestAttackSeesNoNodeItIsAskedAbout(t *testing.T) {
	// Each node has a colour, and a truth for all its hours that only who has seen the node can know.
	rng := rand.New(rand.NewPCG(1, 2))
	var s []Sample
	for n := range 60 {
		yes := rng.IntN(2) == 0
		for h := range 10 {
			s = append(s, Sample{Node: n, Hour: h, True: yes, Features: []float64{float64(n*7919%60) + rng.Float64()/10}})
		}
	}
	if a := AUC(Attack(s, 1)); a > 0.65 { // it may be below 0.5: what is left for the test is what the others are not
		t.Errorf("it knows nodes again: %.3f", a)
	}
}

// The people must be busy enough to be seen, and the designs that leak must be seen through by the observer that
// they leak to.
func TestControls(t *testing.T) {
	c := NewChat(50, 8, false, 1)
	for _, x := range []struct {
		design Design
		of     []Observer
		link   []Observer
	}{
		{QueuePush, []Observer{Network, Store, Both, Disk}, []Observer{Network, Store, Both, Disk}},
		{PondInbox, []Observer{Store, Both, Disk}, nil},
		{Unscheduled, []Observer{Network, Courier, Both}, []Observer{Courier, Both}},
		{NoCover, []Observer{Both}, []Observer{Both}},
		{UniformDecoys, []Observer{Both}, []Observer{Both}},
	} {
		l := Simulate(x.design, c, 3, 4, 1)
		for _, o := range x.of {
			if a := AUC(Attack(Activity(l, o, c.Chatting(), nil), 1)); a < ControlAUC {
				t.Errorf("%s, %s: activity %.3f", x.design, o, a)
			}
		}
		for _, o := range x.link {
			if a := AUC(Link(l, o, c.Pairs())); a < ControlAUC {
				t.Errorf("%s, %s: pairs %.3f", x.design, o, a)
			}
		}
	}
	// What is scheduled and of one size tells network and courier nothing, covered or not.
	l := Simulate(NoCover, c, 3, 4, 1)
	for _, o := range []Observer{Network, Courier} {
		if e := Bootstrap(Attack(Activity(l, o, c.Chatting(), nil), 1), 200, 1); e.Low > 0.53 || e.High < 0.47 {
			t.Errorf("%s: %v", o, e)
		}
	}
}

func TestPeople(t *testing.T) {
	c, again := NewChat(60, 48, true, 7), NewChat(60, 48, true, 7)
	if !reflect.DeepEqual(c, again) {
		t.Error("one seed, two worlds")
	}
	for n, cs := range c.Contacts {
		if len(cs) == 0 || len(cs) > Degree+1 {
			t.Errorf("node %d has %d contacts", n, len(cs))
		}
	}
	up := 0
	for h := range c.Hours {
		for n := range c.Nodes {
			if c.Uptimes[n].Up(time.Duration(h)*time.Hour + time.Minute) {
				up++
			}
		}
	}
	if share := float64(up) / 60 / 48; share < 0.3 || share > 0.8 {
		t.Errorf("nodes are up %.2f of the time", share)
	}
	for _, v := range c.Conversations {
		if !c.Uptimes[v.A].Up(v.Start) {
			t.Fatal("somebody who is away begins to talk")
		}
	}
	// Half of the hours are hours of chat, when everybody is there.
	c = NewChat(100, 24, false, 7)
	n := 0
	for _, hs := range c.Chatting() {
		for _, x := range hs {
			if x {
				n++
			}
		}
	}
	if share := float64(n) / 2400; share < 0.44 || share > 0.5 {
		t.Errorf("%.2f of the hours are hours of chat", share)
	}
}

func TestIntersectionFindsTheWriterOfAQueue(t *testing.T) {
	c := NewChat(100, 10*24, true, 3)
	i := Intersect(Simulate(QueuePush, c, 2, 0, 3), c, 1)
	if a := AUC(i.Scores); a < ControlAUC {
		t.Errorf("contacts by queues: %.3f", a)
	}
	if i.Deposits < 2 || i.Left > 10 {
		t.Errorf("%.0f of 100 nodes are left after %.0f deposits", i.Left, i.Deposits)
	}
	p := Intersect(Simulate(PondInbox, c, 2, 0, 3), c, Degree)
	if a := AUC(p.Scores); a < 0.55 || p.Left > 45 {
		t.Errorf("contacts by inboxes: %.3f, %.0f left", a, p.Left)
	}
	t.Logf("queues %.3f, %.0f left after %.0f; inboxes %.3f, %.0f left after %.0f", AUC(i.Scores), i.Left, i.Deposits, AUC(p.Scores), p.Left, p.Deposits)
}

func TestReport(t *testing.T) {
	r := &Report{Notes: []string{"a note"}}
	r.Add(Row{Observer: Network, Task: "activity", Profile: "balanced", Seeds: 1, Control: string(QueuePush), Aim: 0.53}, Estimate{0.51, 0.48, 0.54, 100}, 0.99)
	if err := r.Check(); err != nil {
		t.Error(err)
	}
	b, err := r.JSON()
	if err != nil || !strings.Contains(string(b), `"ci_low": 0.48`) || !strings.Contains(string(b), `"control_auc": 0.99`) {
		t.Errorf("%s, %v", b, err)
	}
	doc, ok := Splice("before\n"+BeginMark+"\nold\n"+EndMark+"\nafter\n", r.Markdown())
	if !ok || strings.Contains(doc, "old") || !strings.HasPrefix(doc, "before\n"+BeginMark) || !strings.HasSuffix(doc, EndMark+"\nafter\n") {
		t.Errorf("%q", doc)
	}
	r.Add(Row{Observer: Store, Control: "x"}, Estimate{0.5, 0.4, 0.6, 10}, 0.89)
	if err := r.Check(); !errors.Is(err, ErrWeak) || errors.Is(err, ErrAim) {
		t.Error(err)
	}
	r.Rows = r.Rows[:1]
	r.Rows[0].Low = 0.54
	if err := r.Check(); !errors.Is(err, ErrAim) {
		t.Error(err)
	}
}
