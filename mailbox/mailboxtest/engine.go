// SPDX-License-Identifier: Apache-2.0

package mailboxtest

import (
	"bytes"
	"crypto/rand"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tarn/mailbox"
	"tarn/mailbox/store"
)

// TestEngine is what every engine of a store must do. open makes an empty one that forgets by the unit; the suite
// closes it.
func TestEngine(t *testing.T, open func(t *testing.T, unit time.Duration, quota int64) store.Engine) {
	for name, test := range map[string]func(t *testing.T, o *opener){
		"FirstWriteWins":            firstWriteWins,
		"OneCallMayHaveDoubles":     doublesInOneCall,
		"UnpaidIsNotKept":           unpaidIsNotKept,
		"RewriteDoesNotExtend":      rewriteDoesNotExtend,
		"FullUntilSomethingExpires": fullUntilExpiry,
		"BucketsAreRanges":          bucketsAreRanges,
		"ModelOfRandomUse":          randomUse,
		"ReadersWhileWriting":       readersWhileWriting,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, &opener{func(quota int64) store.Engine { return open(t, unit, quota) }, t})
		})
	}
}

// opener opens engines that end with the test, if not before.
type opener struct {
	fresh func(quota int64) store.Engine
	t     *testing.T
}

func (o *opener) open(quota int64) store.Engine {
	e := o.fresh(quota)
	o.t.Cleanup(func() { o.close(e) })
	return e
}

func (o *opener) close(e store.Engine) {
	if err := e.Close(); err != nil {
		o.t.Error(err)
	}
}

const (
	unit = time.Hour
	lots = 1 << 40
)

var epoch = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// newBox is a box whose content says its name.
func newBox(name byte) store.Box {
	b := store.Box{Data: new([mailbox.BoxSize]byte)}
	rand.Read(b.ID[:])
	copy(b.Data[:], bytes.Repeat([]byte{name}, mailbox.BoxSize))
	return b
}

// put is Put of some boxes, whose verdicts it returns.
func put(t *testing.T, e store.Engine, bucket uint64, expires time.Time, boxes ...store.Box) []error {
	t.Helper()
	errs := make([]error, len(boxes))
	if err := e.Put(bucket, expires, boxes, errs); err != nil {
		t.Fatal(err)
	}
	return errs
}

// has says whether the engine has exactly that box.
func has(t *testing.T, e store.Engine, b store.Box) bool {
	t.Helper()
	var got [mailbox.BoxSize]byte
	found, err := e.Get(b.ID.Handle(), &got)
	if err != nil {
		t.Fatal(err)
	}
	return found && got == *b.Data
}

func handles(t *testing.T, e store.Engine, from, to uint64) []mailbox.Handle {
	t.Helper()
	var hs []mailbox.Handle
	if err := e.Handles(from, to, func(h mailbox.Handle) bool { hs = append(hs, h); return true }); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(hs, func(a, b mailbox.Handle) int { return bytes.Compare(a[:], b[:]) })
	return hs
}

func expire(t *testing.T, e store.Engine, now time.Time) {
	t.Helper()
	if err := e.Expire(now); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := e.Expiring(now); ok || err != nil {
		t.Errorf("still expiring after Expire: %v", err)
	}
}

func firstWriteWins(t *testing.T, o *opener) {
	e := o.open(lots)
	a := newBox('a')
	if has(t, e, a) {
		t.Error("it has what nobody wrote")
	}
	if _, ok, err := e.Last(); ok || err != nil {
		t.Errorf("an empty engine has a last bucket, or %v", err)
	}
	if err := put(t, e, 5, epoch, a)[0]; err != nil {
		t.Fatal(err)
	}
	if err := put(t, e, 6, epoch, a)[0]; err != nil {
		t.Errorf("the identical box: %v", err)
	}
	other := store.Box{ID: a.ID, Data: newBox('b').Data}
	if err := put(t, e, 6, epoch, other)[0]; !errors.Is(err, mailbox.ErrExists) {
		t.Errorf("another box of that id: %v", err)
	}
	sameHandle := a
	sameHandle.ID[mailbox.IDSize-1] ^= 1
	if err := put(t, e, 6, epoch, sameHandle)[0]; !errors.Is(err, mailbox.ErrExists) {
		t.Errorf("another id of that handle: %v", err)
	}
	if !has(t, e, a) || e.Usage().Boxes != 1 {
		t.Errorf("it has %d boxes", e.Usage().Boxes)
	}
	if hs := handles(t, e, 0, 1<<62); len(hs) != 1 || hs[0] != a.ID.Handle() {
		t.Errorf("it lists %v", hs)
	}
	if last, ok, err := e.Last(); last != 5 || !ok || err != nil {
		t.Errorf("last bucket %d, %v, %v", last, ok, err)
	}
}

func doublesInOneCall(t *testing.T, o *opener) {
	e := o.open(lots)
	a, b := newBox('a'), newBox('b')
	other := store.Box{ID: a.ID, Data: b.Data}
	errs := put(t, e, 1, epoch, a, b, a, other)
	if errs[0] != nil || errs[1] != nil || errs[2] != nil || !errors.Is(errs[3], mailbox.ErrExists) {
		t.Errorf("%v", errs)
	}
	if e.Usage().Boxes != 2 || !has(t, e, a) || !has(t, e, b) || len(handles(t, e, 0, 2)) != 2 {
		t.Errorf("it has %d boxes", e.Usage().Boxes)
	}
}

func unpaidIsNotKept(t *testing.T, o *opener) {
	e := o.open(lots)
	a, b := newBox('a'), newBox('b')
	unpaid, other := a, store.Box{ID: a.ID, Data: b.Data, Unpaid: true}
	unpaid.Unpaid = true
	// In one call, before and after its paid twin; then when the box is there.
	errs := put(t, e, 1, epoch, unpaid, a, unpaid, other)
	if !errors.Is(errs[0], mailbox.ErrToken) || errs[1] != nil || errs[2] != nil || !errors.Is(errs[3], mailbox.ErrExists) {
		t.Errorf("%v", errs)
	}
	b.Unpaid = true
	errs = put(t, e, 2, epoch, unpaid, other, b)
	if errs[0] != nil || !errors.Is(errs[1], mailbox.ErrExists) || !errors.Is(errs[2], mailbox.ErrToken) {
		t.Errorf("%v", errs)
	}
	if e.Usage().Boxes != 1 || has(t, e, b) || !has(t, e, a) || len(handles(t, e, 0, 10)) != 1 {
		t.Errorf("it has %d boxes", e.Usage().Boxes)
	}
}

func rewriteDoesNotExtend(t *testing.T, o *opener) {
	e := o.open(lots)
	a := newBox('a')
	put(t, e, 1, epoch, a)
	if err := put(t, e, 100, epoch.Add(10*unit), a)[0]; err != nil {
		t.Fatal(err)
	}
	other := store.Box{ID: a.ID, Data: newBox('b').Data}
	if err := put(t, e, 100, epoch.Add(10*unit), other)[0]; !errors.Is(err, mailbox.ErrExists) {
		t.Errorf("another box in another unit: %v", err)
	}
	if hs := handles(t, e, 2, 1000); len(hs) != 0 {
		t.Errorf("a rewrite is listed: %v", hs)
	}
	if last, ok, err := e.Expiring(epoch.Add(2 * unit)); last != 1 || !ok || err != nil {
		t.Errorf("expiring: %d, %v, %v", last, ok, err)
	}
	expire(t, e, epoch.Add(2*unit))
	if has(t, e, a) || e.Usage().Boxes != 0 || len(handles(t, e, 0, 1000)) != 0 {
		t.Error("the rewrite kept it")
	}
	if err := put(t, e, 200, epoch.Add(20*unit), other)[0]; err != nil {
		t.Errorf("the id is not free again: %v", err)
	}
}

func fullUntilExpiry(t *testing.T, o *opener) {
	e := o.open(store.UnitCost + 3*store.BoxCost)
	var errs []error
	boxes := []store.Box{newBox(1), newBox(2)}
	errs = put(t, e, 1, epoch, boxes...)
	if errs[0] != nil || errs[1] != nil {
		t.Fatal(errs)
	}
	fits := 0
	for fits < 2000 {
		more := newBox(3)
		if err := put(t, e, 1, epoch, more)[0]; err != nil {
			if !errors.Is(err, mailbox.ErrFull) || has(t, e, more) {
				t.Fatal(err)
			}
			break
		}
		fits++
	}
	if u := e.Usage(); u.Bytes > u.Quota || fits == 2000 {
		t.Errorf("%d bytes used of %d", u.Bytes, u.Quota)
	}
	if err := put(t, e, 1, epoch, boxes[0])[0]; err != nil {
		t.Errorf("an identical rewrite when full: %v", err)
	}
	if !has(t, e, boxes[0]) {
		t.Error("a box is lost")
	}
	expire(t, e, epoch.Add(unit+time.Second))
	if err := put(t, e, 2, epoch.Add(3*unit), newBox(4))[0]; err != nil {
		t.Errorf("after expiry: %v", err)
	}
}

func bucketsAreRanges(t *testing.T, o *opener) {
	e := o.open(lots)
	boxes := map[uint64]store.Box{}
	for _, bucket := range []uint64{0, 1, 255, 256, 1 << 40} {
		boxes[bucket] = newBox(byte(bucket))
		put(t, e, bucket, epoch.Add(time.Duration(bucket%7)*unit), boxes[bucket])
	}
	for _, r := range [][2]uint64{{0, 1}, {0, 0}, {1, 256}, {255, 257}, {2, 255}, {0, 1<<40 + 1}, {1 << 40, 1 << 62}, {5, 4}} {
		var want []mailbox.Handle
		for bucket, b := range boxes {
			if bucket >= r[0] && bucket < r[1] {
				want = append(want, b.ID.Handle())
			}
		}
		slices.SortFunc(want, func(a, b mailbox.Handle) int { return bytes.Compare(a[:], b[:]) })
		if got := handles(t, e, r[0], r[1]); !slices.Equal(got, want) {
			t.Errorf("%d..%d: %d handles, want %d", r[0], r[1], len(got), len(want))
		}
	}
	n := 0
	if err := e.Handles(0, 1<<62, func(mailbox.Handle) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Errorf("stopped after %d, %v", n, err)
	}
}

// randomUse compares the engine with a plain map over random puts, gets and expiries.
func randomUse(t *testing.T, o *opener) {
	type kept struct {
		box    store.Box
		bucket uint64
		unit   int
	}
	rapid.Check(t, func(rt *rapid.T) {
		e := o.fresh(lots)
		defer o.close(e)
		model := map[mailbox.Handle]kept{}
		now, first := 0, 0
		pool := make([]store.Box, 8)
		for i := range pool {
			pool[i] = newBox(byte(i))
		}
		at := func(u int) time.Time { return epoch.Add(time.Duration(u)*unit + unit/2) }
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.IntRange(0, 3).Draw(rt, "what") {
			case 0, 1:
				var boxes []store.Box
				for range rapid.IntRange(1, 5).Draw(rt, "boxes") {
					b := pool[rapid.IntRange(0, len(pool)-1).Draw(rt, "id")]
					if rapid.Bool().Draw(rt, "other content") {
						b.Data = pool[0].Data
					}
					boxes = append(boxes, b)
				}
				errs := put(t, e, uint64(now), at(now+1), boxes...)
				for i, b := range boxes {
					old, ok := model[b.ID.Handle()]
					switch {
					case !ok:
						if errs[i] != nil {
							rt.Fatalf("a new box: %v", errs[i])
						}
						model[b.ID.Handle()] = kept{b, uint64(now), now + 1}
					case old.box.ID == b.ID && *old.box.Data == *b.Data:
						if errs[i] != nil {
							rt.Fatalf("an identical box: %v", errs[i])
						}
					case !errors.Is(errs[i], mailbox.ErrExists):
						rt.Fatalf("a different box: %v", errs[i])
					}
				}
			case 2:
				now++
			case 3:
				first = now
				expire(t, e, at(now))
				maps.DeleteFunc(model, func(_ mailbox.Handle, k kept) bool { return k.unit < first })
			}
			want := map[mailbox.Handle]bool{}
			for h, k := range model {
				want[h] = true
				if !has(t, e, k.box) {
					rt.Fatal("a box is missing or wrong")
				}
			}
			got := map[mailbox.Handle]bool{}
			for _, h := range handles(t, e, 0, 1<<62) {
				got[h] = true
			}
			if !maps.Equal(got, want) || e.Usage().Boxes != int64(len(model)) {
				rt.Fatalf("%d handles, %d boxes, want %d", len(got), e.Usage().Boxes, len(model))
			}
		}
	})
}

// readersWhileWriting shows under -race that reading needs no care while boxes come and go.
func readersWhileWriting(t *testing.T, o *opener) {
	e := o.open(lots)
	keep := newBox('k')
	put(t, e, 1, epoch.Add(1000*unit), keep)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var box [mailbox.BoxSize]byte
				found, err := e.Get(keep.ID.Handle(), &box)
				if err != nil || !found || box != *keep.Data {
					t.Errorf("reading while writing: %v, %v", found, err)
					return
				}
				if err := e.Handles(0, 10, func(mailbox.Handle) bool { return true }); err != nil {
					t.Error(err)
					return
				}
				e.Usage()
			}
		})
	}
	for i := range 6 {
		at := epoch.Add(time.Duration(i) * unit)
		put(t, e, uint64(i), at, newBox(1), newBox(2))
		if err := e.Expire(at); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}
