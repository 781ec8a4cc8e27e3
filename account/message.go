// SPDX-License-Identifier: Apache-2.0

package account

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// To-device messages between nodes. Boxes come in any order, and twice after a crash; to-device messages want the order in which they
// were sent, and once. So each has a number, and says which came before it.

// Limits of messages from and to other servers.
const (
	MaxInboxOf = 2000   // rows of a device's inbox that one other server has; beyond, its oldest make room
	maxOutbox  = 25_000 // items that wait for a server: beyond, clients are told to try again (replicate's bound is lower, and it looks twice a minute)
	maxSenders = 1000   // users of one server whose messages are told apart
	maxGaps    = 32     // runs of messages of one sender that may still come after later ones
)

// fullAgain is when a client may try again whose message found too much waiting.
const fullAgain = time.Minute

// ErrEarlier: a message that was sent before this one has not come yet.
var ErrEarlier = errors.New("account: an earlier message is on its way")

// Message is a to-device message on its way to another node: an item of the outbox, and a record.
type Message struct {
	// Number grows from each message of a sender to a server to the next; Previous is the number of the one before, 0 of the first.
	Number   uint64          `json:"number"`
	Previous uint64          `json:"previous"`
	Sender   matrix.UserID   `json:"sender"`
	User     matrix.UserID   `json:"user"`
	Device   matrix.DeviceID `json:"device"` // or AllDevices
	Type     string          `json:"type"`
	Content  json.RawMessage `json:"content"`
}

// SetContacts says which servers are contacts of this node: nothing is queued for others. Before the first call all are.
func (a *Accounts) SetContacts(servers map[matrix.ServerName]bool) { a.contacts.Store(&servers) }

func (a *Accounts) isContact(server matrix.ServerName) bool {
	c := a.contacts.Load()
	return c == nil || (*c)[server]
}

// queueMessages puts messages for users of other servers into the outbox. The caller's transaction has their transaction id too: they are
// sent once, whatever is killed when. What is for a server that is no contact is passed over, as what is for a device that does not exist: nothing
// goes there, /keys/query has it among the failures, and what waits for it would wait for ever. Limited, and nothing of the request is done, if too
// much waits for a contact: replicate gives the oldest up at its next look.
func (a *Accounts) queueMessages(txn store.Txn, own string, list []Message) error {
	for _, m := range list {
		server, _ := a.remote(m.User)
		if !a.isContact(server) {
			continue
		}
		switch n, err := store.Waiting(txn, string(server)); {
		case err != nil:
			return err
		case n >= maxOutbox:
			return Limited{RetryAfter: fullAgain}
		}
		at := store.Key(tableSent, string(server), own)
		v, err := getOr(txn, at)
		if err != nil {
			return err
		}
		m.Previous = uint64(posOf(v))
		// The time, so that a node that was restored from a backup does not count what it counted before.
		m.Number = max(uint64(time.Now().UnixMilli()), m.Previous+1)
		item, err := json.Marshal(m)
		if err != nil {
			return err
		}
		if err := errors.Join(txn.Set(at, store.AppendUint64(nil, m.Number)), store.Enqueue(txn, string(server), store.ItemMessage, item)); err != nil {
			return err
		}
	}
	return nil
}

// heardRow is what came of a sender's messages.
type heardRow struct {
	Last uint64 `json:"last"`
	// Gaps are runs of numbers that had not come when later ones were delivered: after From, not after To. The oldest first.
	Gaps []gap `json:"gaps,omitempty"`
}

type gap struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// take tells whether a message is to be delivered now. ErrEarlier: not before another one, unless force.
func (h *heardRow) take(m Message, force bool) (bool, error) {
	if m.Number > h.Last {
		if m.Previous > h.Last {
			if !force {
				return false, ErrEarlier
			}
			h.Gaps = trim(append(h.Gaps, gap{h.Last, m.Previous}))
		}
		h.Last = m.Number
		return true, nil
	}
	for i, g := range h.Gaps {
		if m.Number <= g.From || m.Number > g.To {
			continue
		}
		// Nothing lies between it and the one before it.
		var rest []gap
		if m.Previous > g.From {
			rest = append(rest, gap{g.From, m.Previous})
		}
		if m.Number < g.To {
			rest = append(rest, gap{m.Number, g.To})
		}
		h.Gaps = trim(slices.Concat(h.Gaps[:i], rest, h.Gaps[i+1:]))
		return true, nil
	}
	return false, nil // it came before
}

// trim forgets the oldest gaps beyond the bound: what comes of them is dropped, as if it had come before.
func trim(gaps []gap) []gap { return gaps[max(0, len(gaps)-maxGaps):] }

// Receive takes a message from another node: into the inbox of the devices that it names, as SendToDevice does, once, and in the order in which
// its sender sent them. ErrEarlier if one before it has not come; with force it does not wait for that one any longer, which is taken
// all the same if it comes later. One transaction has the message and the note that it came: a crash leaves both or neither.
// ErrSpeaker, ErrTooLarge, ErrBadJSON, ErrNotFound (no such user here).
func (a *Accounts) Receive(from matrix.ServerName, m Message, force bool) error {
	if server, ok := a.remote(m.Sender); !ok || server != from {
		return fmt.Errorf("%w: a to-device message", ErrSpeaker)
	}
	name, ok := a.local(m.User)
	if !ok {
		return ErrNotFound
	}
	if m.Type == "" || len(m.Type) > matrix.MaxID || m.Number == 0 || m.Previous >= m.Number {
		return fmt.Errorf("%w: the type, or the numbers, of a message", ErrTooLarge)
	}
	body, err := object(m.Content, MaxToDevice)
	if err != nil {
		return err
	}
	event, err := json.Marshal(toDeviceEvent{m.Type, m.Sender, body})
	if err != nil {
		return err
	}
	_, err = a.stream.Write(func(txn store.Txn, pos store.Pos) ([]string, error) {
		at := store.Key(tableHeard, string(from), string(m.Sender))
		heard, err := loadOr[heardRow](txn, at)
		if err != nil {
			return nil, err
		}
		if heard.Last == 0 {
			if n, err := count(txn, store.Key(tableHeard, string(from)), maxSenders); err != nil || n >= maxSenders {
				return nil, errors.Join(err, fmt.Errorf("%w: senders of one server", ErrTooLarge))
			}
		}
		now, err := heard.take(m, force)
		if err != nil || !now {
			return nil, err
		}
		if err := errors.Join(save(txn, at, heard), deliver(txn, pos, name, string(from), map[matrix.DeviceID][]byte{m.Device: event})); err != nil {
			return nil, err
		}
		return []string{string(m.User)}, nil
	})
	return err
}

// noteOrigin notes that a row of an inbox is another server's; the server's oldest rows beyond its bound go, so that it can not push out what
// others sent. gone is how many went.
func noteOrigin(txn store.Txn, pos store.Pos, name string, device matrix.DeviceID, server string) (gone uint64, err error) {
	prefix := store.Key(tableInboxOf, name, device, server)
	count := store.Key(tableInboxSize, name, device, server)
	v, err := getOr(txn, count)
	if err != nil {
		return 0, err
	}
	n := uint64(posOf(v)) + 1
	if n > MaxInboxOf {
		if err := txn.Scan(prefix, nil, func(k, _ []byte) (bool, error) {
			at := store.Pos(binary.BigEndian.Uint64(k[len(prefix):]))
			n--
			gone++
			return n > MaxInboxOf, errors.Join(txn.Delete(k), txn.Delete(store.Key(tableInbox, name, device, at)))
		}); err != nil {
			return 0, err
		}
	}
	return gone, errors.Join(txn.Set(store.Key(tableInboxOf, name, device, server, pos), nil), txn.Set(count, store.AppendUint64(nil, n)))
}

// dropInboxRow deletes a row of an inbox, with the note of whose it is.
func dropInboxRow(txn store.Txn, name string, device matrix.DeviceID, k, v []byte) error {
	var e toDeviceEvent
	if err := json.Unmarshal(v, &e); err != nil {
		return errors.Join(errDataRow, err)
	}
	prefix := store.Key(tableInbox, name, device)
	if len(k) != len(prefix)+8 {
		return errDataRow
	}
	server := e.Sender.Homeserver()
	of := store.Key(tableInboxOf, name, device, server, store.Pos(binary.BigEndian.Uint64(k[len(prefix):])))
	if err := txn.Delete(bytes.Clone(k)); err != nil {
		return err
	}
	switch old, err := txn.Get(store.Key(tableInboxSize, name, device, server)); {
	case errors.Is(err, store.ErrNotFound):
		return nil // of this server
	case err != nil:
		return err
	case posOf(old) > 1:
		return errors.Join(txn.Delete(of), txn.Set(store.Key(tableInboxSize, name, device, server), store.AppendUint64(nil, uint64(posOf(old))-1)))
	}
	return errors.Join(txn.Delete(of), txn.Delete(store.Key(tableInboxSize, name, device, server)))
}
