// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tarn/internal/durable"
	"tarn/mailbox"
	kv "tarn/store"
)

// What boxes cost on disk, for the quota. TestQuotaCountsWhatTheDiskNeeds holds them against du.
const (
	// BoxCost is what one box needs: 8,248 bytes of ciphertext, its rows, and their share of Badger's tables and logs.
	BoxCost = 8704
	// UnitCost is what the database of one expiry unit needs besides: Badger's logs and tables that are just begun.
	UnitCost = 4 << 20

	openingRoom = 16 << 20 // bytes that must be free to open the database of a unit that is there
)

// DaysConfig says where and how Days keeps boxes.
type DaysConfig struct {
	Dir     string        // of its own; made with mode 0700
	Unit    time.Duration // expiry unit
	Quota   int64         // bytes; see BoxCost, UnitCost
	Reserve int64         // bytes of the file system that stay free; 0: package store's default
	Log     *slog.Logger  // nil: nothing

	// Open opens a database in dir; nil: Badger. For tests.
	Open func(dir string) (kv.KV, error)
}

// Days is the Engine on disk: one Badger database for each expiry unit (a day), deleted whole when it is over. All are
// open; a look-up looks into every one.
type Days struct {
	cfg DaysConfig

	putMu  sync.Mutex // held by Put, and by Expire while it changes the lists: there is one writer
	dropMu sync.Mutex // held by Expire while units are destroyed, which deposits do not wait for; before putMu

	mu   sync.RWMutex // guards live: read-held while its databases are used, write-held only to change the list
	live []*day       // newest first
	over []*day       // expired and not in live, but not deleted yet; guarded by putMu, each one dropMu's holder's

	boxes atomic.Int64
	units atomic.Int64
}

var _ Engine = (*Days)(nil)

const deadSuffix = ".dead"

// OpenDays opens the databases in cfg.Dir, and deletes those that were being deleted when the process ended. It does so on a
// full disk too: what is there is given, and what has expired goes.
func OpenDays(cfg DaysConfig) (_ *Days, err error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Open == nil {
		cfg.Open = func(dir string) (kv.KV, error) {
			opt := kv.Options{Shape: kv.Blocks, Reserve: cfg.Reserve, Log: cfg.Log}
			if _, err := os.Stat(dir); err == nil {
				opt.Opening = openingRoom // a full disk is freed by opening what is there: its expired units can be dropped then
			}
			return kv.OpenBadger(dir, opt)
		}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("boxes: %w", err)
	}
	d := &Days{cfg: cfg}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	entries, err := os.ReadDir(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("boxes: %w", err)
	}
	for _, e := range entries {
		name := filepath.Join(cfg.Dir, e.Name())
		switch {
		case strings.HasSuffix(e.Name(), deadSuffix):
			err = os.RemoveAll(name)
		case strings.HasSuffix(e.Name(), ".tmp"): // a key that a crash left half made: nothing is encrypted with it
			err = durable.Shred(name)
		case e.IsDir():
			err = d.open(e.Name())
		}
		if err != nil {
			return nil, fmt.Errorf("boxes: %w", err)
		}
	}
	slices.SortFunc(d.live, func(a, b *day) int { return cmp.Compare(b.unit, a.unit) })
	return d, nil
}

// open opens the database of a unit that is there already.
func (d *Days) open(name string) error {
	unit, err := strconv.ParseUint(name, 10, 63)
	if err != nil {
		return nil // not ours
	}
	y := d.day(unit)
	if err := y.readKey(); err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		// The key is destroyed before the directory is renamed: a crash between the two. What is left says nothing.
		d.cfg.Log.Warn("mailbox: boxes without their key are deleted (an expiry that was interrupted)")
		return y.bury()
	}
	if err := y.open(d.cfg.Open); err != nil {
		return err
	}
	d.live = append(d.live, y)
	d.boxes.Add(y.boxes)
	d.units.Add(1)
	return nil
}

func (d *Days) day(unit uint64) *day {
	return &day{unit: unit, dir: filepath.Join(d.cfg.Dir, strconv.FormatUint(unit, 10))}
}

// target is the open database of the unit; it is made if it is not there.
func (d *Days) target(unit uint64) (*day, error) {
	for _, y := range d.live { // only we (putMu) change the list
		if y.unit == unit {
			return y, nil
		}
	}
	y := d.day(unit)
	if err := y.create(d.cfg.Open); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.live = append([]*day{y}, d.live...)
	slices.SortFunc(d.live, func(a, b *day) int { return cmp.Compare(b.unit, a.unit) })
	d.units.Add(1)
	return y, nil
}

// Put is Engine's. What being killed means stands at [Server.commit] and [day.create].
func (d *Days) Put(bucket uint64, expires time.Time, boxes []Box, errs []error) error {
	d.putMu.Lock()
	defer d.putMu.Unlock()
	fresh, twins, err := d.sift(boxes, errs)
	if err != nil || len(fresh) == 0 {
		return err
	}
	defer func() {
		for i, j := range twins { // the same box twice in one call has one row and one fate
			errs[i] = errs[j]
		}
	}()
	unit := unitOf(expires, d.cfg.Unit)
	if slices.ContainsFunc(d.over, func(y *day) bool { return y.unit == unit }) {
		return errDropped // the clock went back; its key and its directory are about to go
	}
	usage := d.Usage()
	if !slices.ContainsFunc(d.live, func(y *day) bool { return y.unit == unit }) {
		usage.Bytes += UnitCost
	}
	room := max((d.cfg.Quota-usage.Bytes)/BoxCost, 0)
	for int64(len(fresh)) > room {
		errs[fresh[len(fresh)-1]] = mailbox.ErrFull
		fresh = fresh[:len(fresh)-1]
	}
	if len(fresh) == 0 {
		return nil
	}
	y, err := d.target(unit)
	if err == nil {
		err = y.put(bucket, boxes, fresh)
	}
	if errors.Is(err, kv.ErrDiskFull) || diskFull(err) {
		for _, i := range fresh { // nothing of the transaction is there
			errs[i] = mailbox.ErrFull
		}
		return nil
	}
	if err != nil {
		return err
	}
	d.boxes.Add(int64(len(fresh)))
	return nil
}

// sift fills errs for the boxes whose handle is taken, and returns the indices of the others; twins are those that
// equal one of the fresh. It looks into every database for every box, whatever it finds.
func (d *Days) sift(boxes []Box, errs []error) (fresh []int, twins map[int]int, err error) {
	const absent, same, other = 0, 1, 2
	state := make([]byte, len(boxes))
	first := make(map[mailbox.Handle]int, len(boxes))
	for _, y := range d.live {
		if err := y.compare(boxes, func(i int, identical bool) {
			if state[i] = other; identical {
				state[i] = same
			}
		}); err != nil {
			return nil, nil, err
		}
	}
	twins = map[int]int{}
	for i, b := range boxes {
		errs[i] = nil
		j, doubled := first[b.ID.Handle()]
		switch {
		case state[i] == same:
		case state[i] == other:
			errs[i] = mailbox.ErrExists
		case !doubled && b.Unpaid:
			errs[i] = mailbox.ErrToken
		case !doubled:
			first[b.ID.Handle()] = i
			fresh = append(fresh, i)
		case sameBox(boxes[j].ID, boxes[j].Data, b):
			twins[i] = j
		default:
			errs[i] = mailbox.ErrExists
		}
	}
	return fresh, twins, nil
}

// Get is Engine's: the newest database first, and always all of them.
func (d *Days) Get(h mailbox.Handle, box *[mailbox.BoxSize]byte) (found bool, err error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var in *day
	var sealed []byte
	for _, y := range d.live {
		v, err := y.get(h)
		if err != nil {
			return false, err
		}
		if v != nil && in == nil {
			in, sealed = y, v
		}
	}
	if in == nil {
		decoyOpen()
		return false, nil
	}
	_, err = in.openBox(h, sealed, box)
	return err == nil, err
}

// Handles is Engine's.
func (d *Days) Handles(from, to uint64, fn func(mailbox.Handle) bool) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, y := range d.live {
		if more, err := y.handles(from, to, fn); err != nil || !more {
			return err
		}
	}
	return nil
}

// Last is Engine's.
func (d *Days) Last() (last uint64, ok bool, err error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return lastOf(d.live)
}

// Expiring is Engine's.
func (d *Days) Expiring(now time.Time) (last uint64, ok bool, err error) {
	d.putMu.Lock()
	defer d.putMu.Unlock()
	var due []*day
	for _, y := range d.live {
		if unitOver(y.unit, d.cfg.Unit, now) {
			due = append(due, y)
		}
	}
	if last, _, err = lastOf(due); err != nil {
		return 0, false, err
	}
	return last, len(due)+len(d.over) > 0, nil
}

func lastOf(days []*day) (last uint64, ok bool, err error) {
	for _, y := range days {
		b, found, err := y.last()
		if err != nil {
			return 0, false, err
		}
		if found {
			last, ok = max(last, b), true
		}
	}
	return last, ok, nil
}

// Expire is Engine's. A unit is first taken out of use, then its key is destroyed, then its files are deleted. Killed after the
// first step, which is in memory only, the unit is there at the next start and expires again; the others: [day.destroy].
// Deposits go on meanwhile: to close a big database and to delete it takes seconds.
func (d *Days) Expire(now time.Time) error {
	d.dropMu.Lock()
	defer d.dropMu.Unlock()
	var errs []error
	var gone []*day
	for _, y := range d.retire(now) {
		err := y.destroy()
		if errs = append(errs, err); err == nil {
			gone = append(gone, y)
		}
	}
	d.putMu.Lock()
	defer d.putMu.Unlock()
	d.over = slices.DeleteFunc(d.over, func(y *day) bool { return slices.Contains(gone, y) })
	return errors.Join(errs...)
}

// retire takes the units that are over out of use, and returns all that are to be destroyed.
func (d *Days) retire(now time.Time) []*day {
	d.putMu.Lock()
	defer d.putMu.Unlock()
	d.mu.Lock() // waits for the calls that use the databases
	d.live = slices.DeleteFunc(slices.Clone(d.live), func(y *day) bool {
		if !unitOver(y.unit, d.cfg.Unit, now) {
			return false
		}
		d.over = append(d.over, y)
		d.boxes.Add(-y.boxes)
		d.units.Add(-1)
		return true
	})
	d.mu.Unlock()
	return slices.Clone(d.over)
}

// Usage is Engine's.
func (d *Days) Usage() Usage {
	u := Usage{Boxes: d.boxes.Load(), Quota: d.cfg.Quota, Units: int(d.units.Load())}
	u.Bytes = u.Boxes*BoxCost + int64(u.Units)*UnitCost
	return u
}

// Close is Engine's.
func (d *Days) Close() error {
	d.dropMu.Lock()
	defer d.dropMu.Unlock()
	d.putMu.Lock()
	defer d.putMu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	var errs []error
	for _, y := range slices.Concat(d.live, d.over) {
		errs = append(errs, y.close())
	}
	d.live, d.over = nil, nil
	return errors.Join(errs...)
}

// sameBox compares without caring for time: both sides are the asker's own.
func sameBox(id mailbox.BoxID, data *[mailbox.BoxSize]byte, b Box) bool {
	return id == b.ID && bytes.Equal(data[:], b.Data[:])
}

var errDropped = errors.New("the expiry unit of these boxes is being destroyed: the clock went back")

var errDayKey = errors.New("the key of a day of boxes is damaged")

func writeKey(name string, key []byte) error { return durable.WriteFile(name, key, 0o600) }
