// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"tarn/matrix"
	"tarn/store"
)

// MaxThreads bounds the threads whose subscription a user ever changed.
const MaxThreads = 10_000

// ErrUnsubscribed: the user left the thread after the event that a client would subscribe for by itself.
var ErrUnsubscribed = errors.New("account: the user unsubscribed from the thread since then")

// Thread is a user's subscription to a thread (MSC4306), or that there is none any more.
type Thread struct {
	Room       matrix.RoomID
	Root       matrix.EventID
	Subscribed bool
	Automatic  bool      // by a client of its own accord, for somebody mentioned the user
	Pos        store.Pos // of the last change
}

// threadRow is tableThread's. A subscription that ended is kept: what came before its end must not begin it again.
type threadRow struct {
	Pos        store.Pos `json:"pos"`
	Subscribed bool      `json:"subscribed,omitempty"`
	Automatic  bool      `json:"automatic,omitempty"`
}

// Forms of tableThread.
const (
	threadByRoot = byte(0)
	threadByAge  = byte(1)
)

// Subscribe subscribes a user to a thread and wakes their /sync. cause is the position of the event for which a client does so by itself; 0:
// the user wishes it, which outranks that. The same again changes nothing. ErrUnsubscribed, ErrTooLarge, ErrNotFound, ErrDeactivated.
func (a *Accounts) Subscribe(user matrix.UserID, room matrix.RoomID, root matrix.EventID, cause store.Pos) error {
	return a.changeThread(user, room, root, func(row *threadRow, found bool) (bool, error) {
		automatic := cause != 0
		switch {
		case row.Subscribed && (automatic || !row.Automatic):
			return false, nil
		case found && !row.Subscribed && automatic && cause <= row.Pos:
			return false, ErrUnsubscribed
		}
		row.Subscribed, row.Automatic = true, automatic
		return true, nil
	})
}

// Unsubscribe ends a subscription, if there is one.
func (a *Accounts) Unsubscribe(user matrix.UserID, room matrix.RoomID, root matrix.EventID) error {
	return a.changeThread(user, room, root, func(row *threadRow, _ bool) (bool, error) {
		was := row.Subscribed
		row.Subscribed, row.Automatic = false, false
		return was, nil
	})
}

func (a *Accounts) changeThread(user matrix.UserID, room matrix.RoomID, root matrix.EventID, change func(row *threadRow, found bool) (bool, error)) error {
	if len(room) > matrix.MaxID || len(root) > matrix.MaxID {
		return fmt.Errorf("%w: the name of a thread", ErrTooLarge)
	}
	_, err := a.stream.Write(func(txn store.Txn, pos store.Pos) ([]string, error) {
		name, _, err := a.active(txn, user)
		if err != nil {
			return nil, err
		}
		key := store.Key(tableThread, threadByRoot, name, room, root)
		row, err := load[threadRow](txn, key)
		found := err == nil
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		old := row.Pos
		if changed, err := change(&row, found); err != nil || !changed {
			return nil, err
		}
		if found {
			if err := txn.Delete(store.Key(tableThread, threadByAge, name, old)); err != nil {
				return nil, err
			}
		} else if n, err := count(txn, store.Key(tableThread, threadByAge, name), MaxThreads); err != nil {
			return nil, err
		} else if n >= MaxThreads {
			return nil, fmt.Errorf("%w: subscriptions to more than %d threads", ErrTooLarge, MaxThreads)
		}
		row.Pos = pos
		if err := txn.Set(store.Key(tableThread, threadByAge, name, pos), store.Key(0, room, root)); err != nil {
			return nil, err
		}
		return []string{string(user)}, save(txn, key, row)
	})
	return err
}

// Thread reads one; ErrNotFound: the user never subscribed to it.
func (a *Accounts) Thread(user matrix.UserID, room matrix.RoomID, root matrix.EventID) (out Thread, err error) {
	name, ok := a.local(user)
	if !ok || len(room) > matrix.MaxID || len(root) > matrix.MaxID {
		return out, ErrNotFound
	}
	err = a.kv.View(func(r store.Reader) error {
		row, err := load[threadRow](r, store.Key(tableThread, threadByRoot, name, room, root))
		out = Thread{room, root, row.Subscribed, row.Automatic, row.Pos}
		return err
	})
	return out, err
}

// HasThreads says whether the user ever subscribed to a thread.
func (a *Accounts) HasThreads(user matrix.UserID) (has bool, err error) {
	name, ok := a.local(user)
	if !ok {
		return false, nil
	}
	err = a.kv.View(func(r store.Reader) error {
		n, err := count(r, store.Key(tableThread, threadByAge, name), 1)
		has = n > 0
		return err
	})
	return has, err
}

// Threads lists the changes of subscriptions in (since, upTo], each thread's last, in order: the newest limit of them. more: there are
// older ones.
func (a *Accounts) Threads(user matrix.UserID, since, upTo store.Pos, limit int) (out []Thread, more bool, err error) {
	name, ok := a.local(user)
	if !ok || upTo <= since {
		return nil, false, nil
	}
	prefix := store.Key(tableThread, threadByAge, name)
	err = a.kv.View(func(r store.Reader) error {
		return r.ScanBack(prefix, store.Key(tableThread, threadByAge, name, upTo+1), func(k, v []byte) (bool, error) {
			if len(k) != len(prefix)+8 {
				return false, errDataRow
			}
			pos := store.Pos(binary.BigEndian.Uint64(k[len(prefix):]))
			if pos > upTo { // the bound may be given too
				return true, nil
			}
			if pos <= since {
				return false, nil
			}
			if len(out) == limit {
				more = true
				return false, nil
			}
			kr := store.ReadKey(v)
			t := Thread{Room: matrix.RoomID(kr.String()), Root: matrix.EventID(kr.String()), Pos: pos}
			if err := kr.Err(); err != nil {
				return false, err
			}
			row, err := load[threadRow](r, store.Key(tableThread, threadByRoot, name, t.Room, t.Root))
			if err != nil {
				return false, fmt.Errorf("%w: %w", errDataRow, err)
			}
			t.Subscribed, t.Automatic = row.Subscribed, row.Automatic
			out = append(out, t)
			return true, nil
		})
	})
	slices.Reverse(out)
	return out, more, err
}
