// SPDX-License-Identifier: Apache-2.0

package leakage

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
)

// ErrWeak: an attack does not find what it must find in a design that leaks; so it says nothing about Tarn.
var ErrWeak = errors.New("leakage: attack too weak")

// ErrAim: Tarn leaks more than it aims at, and not by chance.
var ErrAim = errors.New("leakage: above the aim")

// Row is one experiment.
type Row struct {
	Observer   Observer `json:"observer"`
	Task       string   `json:"task"`
	Profile    string   `json:"profile"`
	AUC        float64  `json:"auc"`
	Low        float64  `json:"ci_low"`
	High       float64  `json:"ci_high"`
	N          int      `json:"n"`
	Seeds      int      `json:"seeds"`
	Control    string   `json:"control"`
	ControlAUC float64  `json:"control_auc"`
	// Aim is the highest AUC that Tarn means to allow; 0: none, the figure is what it is.
	Aim float64 `json:"aim,omitempty"`
	// Note is what the AUC alone does not say.
	Note string `json:"note,omitempty"`
}

// Report is a whole run.
type Report struct {
	Rows  []Row
	Notes []string // what was run, and figures that are no AUC
}

// Add adds a row with an estimate.
func (r *Report) Add(row Row, e Estimate, control float64) {
	row.AUC, row.Low, row.High, row.N, row.ControlAUC = e.AUC, e.Low, e.High, e.N, control
	r.Rows = append(r.Rows, row)
}

// Check fails if an attack is too weak to count, or if an aim is missed by more than the interval allows.
func (r *Report) Check() error {
	var errs []error
	for _, x := range r.Rows {
		if math.IsNaN(x.AUC) || !(x.ControlAUC >= ControlAUC) {
			errs = append(errs, fmt.Errorf("%w: %s, %s: %.3f on %q", ErrWeak, x.Observer, x.Task, x.ControlAUC, x.Control))
		}
		if x.Aim > 0 && x.Low > x.Aim {
			errs = append(errs, fmt.Errorf("%w: %s, %s: %.3f (%.3f to %.3f), aim %.2f", ErrAim, x.Observer, x.Task, x.AUC, x.Low, x.High, x.Aim))
		}
	}
	return errors.Join(errs...)
}

// JSON is the rows, one object each.
func (r *Report) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(r.Rows, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("leakage: write the report: %w", err)
	}
	return append(b, '\n'), nil
}

// Markdown is the notes and the table.
func (r *Report) Markdown() string {
	var b strings.Builder
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "- %s\n", n)
	}
	b.WriteString("\n| observer | task | profile | AUC (95 %) | n | aim | control: AUC |\n|---|---|---|---|---|---|---|\n")
	for _, x := range r.Rows {
		aim := ""
		if x.Aim > 0 {
			aim = fmt.Sprintf("≤ %.2f", x.Aim)
		}
		task := x.Task
		if x.Note != "" {
			task += " (" + x.Note + ")"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | **%.2f** (%.2f–%.2f) | %d | %s | %s: %.2f |\n", x.Observer, task, x.Profile, x.AUC, x.Low, x.High, x.N, aim,
			x.Control, x.ControlAUC)
	}
	return b.String()
}

// The lines in a document between which the report stands.
const (
	BeginMark = "<!-- leakage report: made by `make leakage`, do not edit -->"
	EndMark   = "<!-- end of the leakage report -->"
)

// Splice puts text between the marks of a document. False: they are not there.
func Splice(document, text string) (string, bool) {
	before, rest, ok := strings.Cut(document, BeginMark)
	_, after, ok2 := strings.Cut(rest, EndMark)
	if !ok || !ok2 {
		return document, false
	}
	return before + BeginMark + "\n" + strings.TrimRight(text, "\n") + "\n" + EndMark + after, true
}
