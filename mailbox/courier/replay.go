// SPDX-License-Identifier: Apache-2.0

package courier

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"tarn/crypto/layered"
	"tarn/internal/durable"
)

// replays remembers which layers were peeled, by the day of the key, for as long as the key can open them: who hands the
// same one over twice would see the same thing leave twice, and so learn where it goes.
//
// What is remembered is the first 8 bytes of the layer's ID. Two of a million layers have the same with probability
// 2^-25, and then one of them is lost, which its sender makes good.
//
// A layer is used only after its mark is on the disk: marks are written and synced in groups. So a restart, also after a
// power loss, forgets none that had an effect. Killed between the two, a mark is there of a layer that was never used: its
// sender writes anew, with another layer. The file of a day is destroyed after the key of that day, so it never outlives
// what it is for; without a key it is destroyed at the next start.
//
// A write that fails may leave a part of its marks. The file is then cut to what was synced before, so that what follows lies
// where the next start looks for it; if that fails too, no layer of that day is peeled any more.
type replays struct {
	dir  string // "" keeps nothing
	most int    // of one day
	open func(name string) (markFile, error)

	mu   sync.Mutex // guards all below, never over the disk
	days map[uint32]*replayDay
	wait []func(ok bool) // what goes on when the marks so far are synced
	busy bool            // a group is being written
}

type replayDay struct {
	seen   map[uint64]struct{}
	rest   []byte // marks that are not in the file yet
	broken bool   // what is in the file is not known

	// The writer's alone.
	file markFile
	good int64 // bytes that are synced
}

// markFile is an *os.File that is appended to.
type markFile interface {
	io.Writer
	Sync() error
	Truncate(size int64) error
	Seek(offset int64, whence int) (int64, error)
	Close() error
}

func openMarks(name string) (markFile, error) {
	return os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

const (
	replaySuffix = ".peeled"
	markSize     = 8
	groupWait    = 5 * time.Millisecond // one sync for all layers that come within
)

var (
	errReplay = errors.New("courier: this layer was peeled before")
	errBroken = errors.New("courier: the list of the day's layers is broken")
)

// openReplays reads the marks of the days whose keys are there, and destroys the others.
func openReplays(dir string, most int, alive func(day uint32) bool) (*replays, error) {
	r := &replays{dir: dir, most: most, open: openMarks, days: map[uint32]*replayDay{}}
	if dir == "" {
		return r, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("replayed layers: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("replayed layers: %w", err)
	}
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), replaySuffix)
		day, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil {
			continue
		}
		if !alive(uint32(day)) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("replayed layers: %w", err)
			}
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("replayed layers: %w", err)
		}
		d := r.day(uint32(day))
		for whole := b[:len(b)/markSize*markSize]; len(whole) > 0; whole = whole[markSize:] {
			d.seen[binary.BigEndian.Uint64(whole)] = struct{}{}
		}
		if cut := len(b) % markSize; cut > 0 { // a mark that a crash left half written: its layer was never used
			if err := os.Truncate(filepath.Join(dir, e.Name()), int64(len(b)-cut)); err != nil {
				return nil, fmt.Errorf("replayed layers: %w", err)
			}
		}
	}
	return r, nil
}

// day is the marks of a day. mu is held, or nobody else is there.
func (r *replays) day(n uint32) *replayDay {
	d := r.days[n]
	if d == nil {
		d = &replayDay{seen: map[uint64]struct{}{}}
		r.days[n] = d
	}
	return d
}

// mark remembers a layer and calls then when that is durable, or has failed. errReplay: it was there before. Any other
// error: there is no room for more of that day. With an error then is not called.
func (r *replays) mark(day uint32, id [layered.IDSize]byte, then func(ok bool)) error {
	m := binary.BigEndian.Uint64(id[:])
	r.mu.Lock()
	d := r.day(day)
	if _, ok := d.seen[m]; ok {
		r.mu.Unlock()
		return errReplay
	}
	if d.broken {
		r.mu.Unlock()
		return errBroken
	}
	if len(d.seen) >= r.allowed(day, time.Now()) {
		r.mu.Unlock()
		return errors.New("courier: too many layers for one day")
	}
	d.seen[m] = struct{}{}
	if r.dir == "" {
		r.mu.Unlock()
		then(true)
		return nil
	}
	d.rest = binary.BigEndian.AppendUint64(d.rest, m)
	r.wait = append(r.wait, then)
	start := !r.busy
	r.busy = true
	r.mu.Unlock()
	if start {
		time.AfterFunc(groupWait, r.write)
	}
	return nil
}

// allowed is how many layers of a day may have been peeled by now: an eighth at once, the others as the day goes by. Who hands over
// more than that takes the places of an hour, not of the day.
func (r *replays) allowed(day uint32, now time.Time) int {
	gone := now.Sub(time.Unix(int64(day)*86400, 0)).Hours() / 24
	return int(float64(r.most) * (1 + 7*min(max(gone, 0), 1)) / 8)
}

// write writes and syncs what has gathered, and goes on until nothing is left. One at a time (busy).
func (r *replays) write() {
	for {
		r.mu.Lock()
		wait := r.wait
		r.wait = nil
		if r.busy = len(wait) > 0; !r.busy {
			r.mu.Unlock()
			return
		}
		work := map[uint32]*replayDay{}
		rest := map[uint32][]byte{}
		for n, d := range r.days {
			if len(d.rest) > 0 {
				work[n], rest[n] = d, d.rest
				d.rest = nil
			}
		}
		r.mu.Unlock()
		var err error
		for n, d := range work {
			err = errors.Join(err, r.append(n, d, rest[n]))
		}
		for _, then := range wait {
			then(err == nil)
		}
	}
}

func (r *replays) append(n uint32, d *replayDay, marks []byte) error {
	if d.broken {
		return errBroken // marked before it broke
	}
	if d.file == nil {
		f, err := r.open(r.path(n))
		if err != nil {
			return err
		}
		size, err := f.Seek(0, io.SeekEnd)
		if err = errors.Join(err, durable.SyncDir(r.dir)); err != nil {
			return errors.Join(err, f.Close())
		}
		d.file, d.good = f, size
	}
	_, err := d.file.Write(marks)
	if err == nil {
		err = d.file.Sync()
	}
	if err == nil {
		d.good += int64(len(marks))
		return nil
	}
	if cut := d.file.Truncate(d.good); cut != nil {
		err = errors.Join(err, cut)
		r.mu.Lock()
		d.broken = true
		r.mu.Unlock()
	}
	return err
}

func (r *replays) path(day uint32) string {
	return filepath.Join(r.dir, strconv.FormatUint(uint64(day), 10)+replaySuffix)
}

// forget destroys the marks of days whose keys are gone. A crash in between leaves files for the next start.
func (r *replays) forget(alive func(day uint32) bool) (err error) {
	r.mu.Lock()
	var gone []*replayDay
	var names []string
	for n, d := range r.days {
		if !alive(n) && len(d.rest) == 0 && !r.busy { // else the next time
			delete(r.days, n)
			gone, names = append(gone, d), append(names, r.path(n))
		}
	}
	r.mu.Unlock()
	for i, d := range gone {
		if d.file == nil && r.dir == "" {
			continue
		}
		if d.file != nil {
			err = errors.Join(err, d.file.Close())
		}
		if e := os.Remove(names[i]); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// close gives the files back. Nothing is marked any more.
func (r *replays) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, d := range r.days {
		if d.file != nil {
			d.file.Close()
			d.file = nil
		}
	}
}
