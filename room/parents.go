// SPDX-License-Identifier: Apache-2.0

package room

import (
	"cmp"
	"slices"

	"tarn/matrix"
)

// parents chooses the heads that a new event is built on: all, or the MaxPrev of them with which the event is allowed. Where many wrote at once (fifty
// joined by invites of one moment) there are more; then what an event leans on, say its sender's own join, must be behind one that is
// chosen, or the event would be refused by the state that its parents give. After that the deepest, which have most behind them. The rest stay heads, for the
// next event.
func (p *plan) parents(auth []matrix.EventID) ([]hash, error) {
	heads := p.row.heads
	if len(heads) <= matrix.MaxPrev {
		return heads, nil
	}
	type head struct {
		h     hash
		e     *held
		leans int // what of auth is behind it and behind none before it
	}
	all := make([]head, 0, len(heads))
	has := make([]map[matrix.EventID]bool, 0, len(heads))
	for _, h := range heads {
		e, err := p.head(h)
		if err != nil {
			return nil, err
		}
		after, err := p.state(p.stateOf(e))
		if err != nil {
			return nil, err
		}
		all = append(all, head{h: h, e: e})
		in := map[matrix.EventID]bool{}
		for _, a := range auth {
			x, err := p.byID(a)
			if err != nil {
				return nil, err
			}
			if x == nil {
				continue
			}
			slot, ok := x.ev.Slot()
			in[a] = ok && after[slot] == a
		}
		has = append(has, in)
	}
	for _, a := range auth { // at most MaxAuth, which is less than MaxPrev
		best := -1
		for i := range all {
			if has[i][a] && (best < 0 || all[i].leans > all[best].leans || all[i].leans == all[best].leans && all[i].e.ev.Depth() > all[best].e.ev.Depth()) {
				best = i
			}
		}
		if best >= 0 {
			all[best].leans++
		}
	}
	slices.SortStableFunc(all, func(a, b head) int {
		return cmp.Or(cmp.Compare(b.leans, a.leans), cmp.Compare(b.e.ev.Depth(), a.e.ev.Depth()))
	})
	out := make([]hash, 0, matrix.MaxPrev)
	for _, x := range all[:matrix.MaxPrev] {
		out = append(out, x.h)
	}
	return out, nil
}
