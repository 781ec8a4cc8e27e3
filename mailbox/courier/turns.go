// SPDX-License-Identifier: Apache-2.0

package courier

import (
	"sync"
	"sync/atomic"
	"time"

	"tarn/mailbox"
)

// turns is what waits for one link: each payer's in its order, and the payers by turns, so that who hands over very much
// makes itself wait and nobody else. How much waits is bounded where it is taken in (session.admit, hops.admit).
type turns struct {
	wake chan struct{} // has a value when something is there

	mu    sync.Mutex // guards all below
	lists map[payer][]request
	order []payer // who has something, next first
	n     int
}

func newTurns() *turns { return &turns{wake: make(chan struct{}, 1), lists: map[payer][]request{}} }

func (t *turns) add(x payer, r request) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := t.lists[x]
	if len(list) == 0 {
		t.order = append(t.order, x)
	}
	t.lists[x] = append(list, r)
	t.n++
	t.rouse()
}

// next is the next one's first; false: nothing waits.
func (t *turns) next() (request, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == 0 {
		return request{}, false
	}
	x := t.order[0]
	t.order = t.order[1:]
	list := t.lists[x]
	r := list[0]
	if len(list) > 1 {
		list[0] = request{} // its box is not held by the list
		t.lists[x] = list[1:]
		t.order = append(t.order, x)
	} else {
		delete(t.lists, x)
	}
	if t.n--; t.n > 0 {
		t.rouse()
	}
	return r, true
}

func (t *turns) rouse() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *turns) empty() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n == 0
}

// pool bounds how many bytes wait for all together. A quarter is for who comes first. When that is taken, those who have
// been here for a while still have a share each, which nobody can take from them, for what does not wait long: so who
// fills the pool fills it for newcomers. A half is these shares, a quarter what sessions that ended leave behind: one place
// cannot be given up twice, with a share, within the time that its halves wait (shareFor, a dial, a write).
type pool struct {
	most, share int64
	held        atomic.Int64
}

// Who has a share, and for what.
const (
	shareAfter = 5 * time.Minute
	shareFor   = 2 * time.Minute
)

const _ = uint(shareAfter - shareFor - dialTimeout - writeTimeout)

func newPool(most int64, places int) *pool {
	return &pool{most: most, share: most / 2 / int64(places)}
}

// take reserves n bytes, for about so long, for who holds that many already and came then; false: there is no room.
func (p *pool) take(n, held int, since time.Time, wait time.Duration) bool {
	all := p.held.Add(int64(n))
	if all <= p.most/4 || all <= p.most && int64(held+n) <= p.share && wait <= shareFor && time.Since(since) >= shareAfter {
		return true
	}
	p.release(n)
	return false
}

func (p *pool) release(n int) { p.held.Add(-int64(n)) }

const _ = uint(mailbox.MaxDelay - shareFor) // else the bound would be for nothing
