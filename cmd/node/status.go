// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"tarn/internal/cli"

	"tarn/media"
	"tarn/onion"
	"tarn/replicate"
)

type nodeStatus struct {
	Address   string          `json:"address"`
	ClientURL string          `json:"client_url"`
	Uptime    string          `json:"uptime"`
	Tor       torState        `json:"tor"`
	Profile   string          `json:"profile"`
	Mode      string          `json:"mode"` // couriers or direct
	Delay     string          `json:"expected_delay"`
	MBADay    float64         `json:"mb_a_day"`
	Crowd     int             `json:"crowd"` // nodes that write to our mailboxes, about; 0: not known
	Notice    string          `json:"notice,omitempty"`
	Couriers  []courierStatus `json:"couriers"`
	Mailboxes []mailboxStatus `json:"mailboxes"`
	Contacts  []contactStatus `json:"contacts"`
	DiskFree  int64           `json:"disk_free"` // bytes
	DiskFull  bool            `json:"disk_full"` // too few: nothing is written
}

type torState struct {
	State   string `json:"state"`
	Percent int    `json:"percent"`
	Summary string `json:"summary"`
	Advice  string `json:"advice,omitempty"`
}

type mailboxStatus struct {
	Address   string    `json:"address"`
	Own       bool      `json:"own"`
	Family    string    `json:"family,omitempty"`
	Left      bool      `json:"left"`     // boxes are not left there any more
	Draining  bool      `json:"draining"` // it was one of ours
	LastGood  time.Time `json:"last_good,omitzero"`
	Loops     float64   `json:"loops"`      // test boxes that came back, lately
	Lost      float64   `json:"loops_lost"` // and that did not
	LoopDelay string    `json:"loop_delay,omitempty"`
	Problem   string    `json:"problem,omitempty"`
}

type courierStatus struct {
	Address   string    `json:"address"`
	Family    string    `json:"family,omitempty"`
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	Until     time.Time `json:"until"`
	Loss      float64   `json:"loss"` // share of what it carried that was not answered, lately
	Problem   string    `json:"problem,omitempty"`
}

type contactStatus struct {
	ID        string    `json:"id,omitempty"`     // of a link, for `node forget`
	Server    string    `json:"server,omitempty"` // not known yet while an invitation waits
	State     string    `json:"state"`
	Reason    string    `json:"reason,omitempty"`
	Check     string    `json:"check,omitempty"` // both sides see the same number
	LastHeard time.Time `json:"last_heard,omitzero"`
	Waiting   int       `json:"waiting"` // items in the outbox
	Unacked   int       `json:"unacked"` // boxes written, not acknowledged yet
	Delay     string    `json:"expected_delay,omitempty"`
	Broken    uint64    `json:"broken,omitempty"` // things that no honest node sends

	Files    *filesStatus `json:"files,omitempty"`
	Presence bool         `json:"presence,omitempty"` // it is told who is here and who types

	Introducer string `json:"introduced_by,omitempty"` // the contact that introduced it, or is asked to; none: a person made it
}

// filesStatus is what is on its way between the node and a contact's, in files and bytes.
type filesStatus struct {
	Coming  int    `json:"coming"`
	Here    uint64 `json:"here"` // of of
	Of      uint64 `json:"of"`   // of those whose size is known
	Going   int    `json:"going"`
	ToGo    uint64 `json:"to_go"`
	Failed  int    `json:"failed"`
	Problem string `json:"problem,omitempty"` // of the newest that failed
}

// String says it to people.
func (f *filesStatus) String() string {
	var words []string
	if f.Coming > 0 {
		words = append(words, fmt.Sprintf("%d on their way here (%d of %d kB)", f.Coming, f.Here/1000, f.Of/1000))
	}
	if f.Going > 0 {
		words = append(words, fmt.Sprintf("%d on their way there (%d kB to go)", f.Going, f.ToGo/1000))
	}
	if f.Failed > 0 {
		words = append(words, fmt.Sprintf("%d did not come; the last: %s", f.Failed, f.Problem))
	}
	return strings.Join(words, ", ")
}

func torStatus(s onion.Status) torState {
	advice := s.Reason.Advice()
	if strings.Contains(s.Summary, advice) {
		advice = ""
	}
	advice = strings.TrimSpace(advice + " " + s.Warning)
	return torState{State: string(s.State), Percent: s.Percent, Summary: s.Summary, Advice: advice}
}

func newContactStatus(c replicate.ContactStatus) contactStatus {
	var files *filesStatus
	if f := c.Files; f != (media.Transfers{}) {
		files = &filesStatus{Coming: f.Coming, Here: f.Here, Of: f.Of, Going: f.Going, ToGo: f.ToGo, Failed: f.Failed, Problem: f.Problem}
	}
	return contactStatus{
		Files: files, Presence: c.Signs,
		ID: c.ID, Server: string(c.Name), State: string(c.State), Reason: c.Reason, Check: c.Number, LastHeard: c.LastHeard,
		Waiting: c.Waiting, Unacked: c.Unacked, Delay: round(c.ExpectedDelay), Introducer: string(c.Introducer), Broken: c.Broken,
	}
}

func round(d time.Duration) string {
	if d >= 10*time.Second {
		return d.Round(time.Second).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

func (n *node) contacts() ([]contactStatus, error) {
	cs, err := n.engine.Contacts()
	out := make([]contactStatus, len(cs))
	for i, c := range cs {
		out[i] = newContactStatus(c)
	}
	return out, err
}

func (n *node) status() (nodeStatus, error) {
	t := n.engine.Traffic()
	s := nodeStatus{
		Address: string(n.id.name), ClientURL: n.cfg.Client.URL(), Uptime: time.Since(n.started).Round(time.Second).String(),
		Tor: torStatus(n.tor.Status()), Profile: t.Profile, Mode: t.Mode.String(), Delay: round(t.ExpectedDelay), MBADay: float64(t.BytesPerDay) / 1e6,
		Crowd: t.Crowd, Notice: t.Notice, Mailboxes: []mailboxStatus{}, Couriers: []courierStatus{},
	}
	for _, c := range t.Couriers {
		s.Couriers = append(s.Couriers, courierStatus{c.Address.String(), c.Family, c.Connected, c.Since, c.Until, c.Loss, c.Problem})
	}
	for _, m := range n.engine.Stores() {
		ms := mailboxStatus{Address: m.Address.String(), Own: m.Own, Family: m.Family, Left: m.Left, Draining: m.Draining, LastGood: m.LastSuccess,
			Loops: m.Loops, Lost: m.Lost, Problem: m.Problem}
		if m.LoopDelay > 0 {
			ms.LoopDelay = round(m.LoopDelay)
		}
		s.Mailboxes = append(s.Mailboxes, ms)
	}
	var err error
	if s.DiskFree, err = cli.DiskFree(n.cfg.DataDir); err != nil {
		return s, err
	}
	s.DiskFull = s.DiskFree < diskReserve
	s.Contacts, err = n.contacts()
	return s, err
}

func cmdStatus(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "status")
	if err := f.NoWords(args); err != nil {
		return err
	}
	var s nodeStatus
	if err := call(ctx, f.Config, "status", false, nil, &s); err != nil {
		return err
	}
	return f.Show(e, s, func(w io.Writer) { printStatus(w, s) })
}

func printStatus(w io.Writer, s nodeStatus) {
	fmt.Fprintf(w, "address   %s\nclients   %s\nrunning   %s\n", s.Address, s.ClientURL, s.Uptime)
	fmt.Fprintf(w, "tor       %s: %s\n", s.Tor.State, s.Tor.Summary)
	if s.Tor.Advice != "" {
		fmt.Fprintf(w, "          %s\n", s.Tor.Advice)
	}
	way := "in frames to couriers"
	if s.Mode == replicate.Direct.String() {
		way = "directly to mailboxes"
	}
	fmt.Fprintf(w, "profile   %s, %s: a message takes about %s, traffic %.0f MB a day\n", s.Profile, way, s.Delay, s.MBADay)
	if s.Notice != "" {
		fmt.Fprintf(w, "          %s\n", s.Notice)
	}
	if s.Crowd > 0 {
		fmt.Fprintf(w, "hidden    among about %d nodes that use your mailboxes\n", s.Crowd)
	}
	for _, c := range s.Couriers {
		state := "not connected"
		if c.Connected {
			state = "connected"
		}
		state += fmt.Sprintf("; kept until %s; %.1f %% not answered lately", c.Until.Format(time.DateOnly), 100*c.Loss)
		if c.Problem != "" {
			state += "; " + c.Problem
		}
		fmt.Fprintf(w, "courier   %s\n          %s\n", c.Address, state)
	}
	if s.DiskFull {
		fmt.Fprintf(w, "disk      full: %d MiB are free, %d are needed; until then nothing is kept, sent or received\n", s.DiskFree>>20, diskReserve>>20)
	}
	for _, m := range s.Mailboxes {
		state := "not reached yet"
		if !m.LastGood.IsZero() {
			state = "reached " + ago(m.LastGood)
		}
		if m.Problem != "" {
			state += "; " + m.Problem
		}
		if m.Draining {
			state += "; not yours any more: read until what lies there is over"
		}
		if m.Loops+m.Lost > 1 {
			state += fmt.Sprintf("; %.0f test boxes came back lately, %.0f did not", m.Loops, m.Lost)
			if m.LoopDelay != "" {
				state += ", after about " + m.LoopDelay
			}
		}
		fmt.Fprintf(w, "mailbox   %s\n          %s\n", m.Address, state)
	}
	printContacts(w, s.Contacts)
}

func printContacts(w io.Writer, cs []contactStatus) {
	if len(cs) == 0 {
		fmt.Fprintln(w, "contacts  none: `node invite` makes a link")
		return
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "CONTACT\tSTATE\tCHECK\tHEARD\tWAITING\tUNACKNOWLEDGED\tDELAY")
	for _, c := range cs {
		name, state, heard := c.Server, c.State, "never"
		if name == "" {
			name = "link " + c.ID
		}
		if c.Reason != "" {
			state += ": " + c.Reason
		}
		if !c.LastHeard.IsZero() {
			heard = ago(c.LastHeard)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%d\t%d\t%s\n", name, state, c.Check, heard, c.Waiting, c.Unacked, c.Delay)
	}
	tw.Flush()
	for _, c := range cs {
		if c.Presence {
			fmt.Fprintf(w, "presence  %s is told who is online here and who types\n", c.Server)
		}
	}
	for _, c := range cs {
		if c.Introducer != "" && c.State == string(replicate.Active) {
			fmt.Fprintf(w, "introduced  %s: by %s\n", c.Server, c.Introducer)
		}
	}
	for _, c := range cs {
		if c.Files != nil {
			fmt.Fprintf(w, "files  %s: %v\n", c.Server, c.Files)
		}
	}
}

func ago(t time.Time) string { return time.Since(t).Round(time.Second).String() + " ago" }
