// SPDX-License-Identifier: Apache-2.0

package account

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// AllDevices is the device id that stands for every device of a user (C-S API, PUT /sendToDevice).
const AllDevices = matrix.DeviceID("*")

const (
	txnHours   = 24 // that a transaction id is remembered, at least
	txnSweep   = 8  // expired ids that one request forgets: more than it adds, so that they get fewer
	txnByName  = byte(0)
	txnByHour  = byte(1)
	hourOfTime = int64(60 * 60)
)

// ToDevice is one PUT /sendToDevice: a content for each device, of which AllDevices is one.
type ToDevice struct {
	Sender   matrix.UserID
	Device   matrix.DeviceID // of the sender, whose transaction id it is
	Txn      string
	Type     string
	Contents map[matrix.UserID]map[matrix.DeviceID]json.RawMessage
}

// toDeviceEvent is a row of tableInbox, and what /sync gives.
type toDeviceEvent struct {
	Type    string          `json:"type"`
	Sender  matrix.UserID   `json:"sender"`
	Content json.RawMessage `json:"content"`
}

// SendToDevice puts an event into the inbox of each device named, all or none, and wakes their /sync. The same
// transaction id of the same device is taken once (for a day at least, also over restarts: it is written with the events).
// Devices that do not exist are passed over. What is for users of other servers that are contacts lies in the outbox, durably, when it returns.
// ErrTooLarge, ErrBadJSON; ErrLimited: too much waits for one of these servers, and nothing of the request was taken.
func (a *Accounts) SendToDevice(m ToDevice) error {
	own, ok := a.local(m.Sender)
	if !ok {
		return ErrNotFound
	}
	if m.Type == "" || len(m.Type) > matrix.MaxID || len(m.Txn) > matrix.MaxID {
		return fmt.Errorf("%w: the type or the transaction id", ErrTooLarge)
	}
	rows := map[matrix.UserID]map[matrix.DeviceID][]byte{}
	var out []Message
	for _, user := range slices.Sorted(maps.Keys(m.Contents)) {
		devices := m.Contents[user]
		if _, ok := a.local(user); !ok {
			if _, ok := a.remote(user); !ok {
				continue
			}
			for _, device := range slices.Sorted(maps.Keys(devices)) {
				body, err := object(devices[device], MaxToDevice)
				if err != nil {
					return err
				}
				if goodDeviceID(device) {
					out = append(out, Message{Sender: m.Sender, User: user, Device: device, Type: m.Type, Content: body})
				}
			}
			continue
		}
		rows[user] = map[matrix.DeviceID][]byte{}
		for device, content := range devices {
			body, err := object(content, MaxToDevice)
			if err != nil {
				return err
			}
			if rows[user][device], err = json.Marshal(toDeviceEvent{m.Type, m.Sender, body}); err != nil {
				return err
			}
		}
	}
	_, err := a.stream.Write(func(txn store.Txn, pos store.Pos) (topics []string, err error) {
		if done, err := onceTxn(txn, own, m); err != nil || done {
			return nil, err
		}
		for user, devices := range rows {
			name, _ := a.local(user)
			if err := deliver(txn, pos, name, "", devices); err != nil {
				return nil, err
			}
			topics = append(topics, string(user))
		}
		return topics, a.queueMessages(txn, own, out)
	})
	return err
}

// deliver writes one user's events, which came from another server, or ("") from this one.
func deliver(txn store.Txn, pos store.Pos, name, from string, devices map[matrix.DeviceID][]byte) error {
	everyone, wild := devices[AllDevices]
	if wild {
		prefix := store.Key(tableDevice, name)
		if err := txn.Scan(prefix, nil, func(k, _ []byte) (bool, error) {
			kr := store.ReadKey(k)
			_ = kr.String() // the user
			device := matrix.DeviceID(kr.String())
			if err := kr.Err(); err != nil {
				return false, err
			}
			if _, named := devices[device]; named {
				return true, nil
			}
			return true, put(txn, pos, name, device, from, everyone)
		}); err != nil {
			return err
		}
	}
	for device, event := range devices {
		if device == AllDevices || !goodDeviceID(device) {
			continue
		}
		switch _, err := txn.Get(store.Key(tableDevice, name, device)); {
		case errors.Is(err, store.ErrNotFound):
			continue
		case err != nil:
			return err
		}
		if err := put(txn, pos, name, device, from, event); err != nil {
			return err
		}
	}
	return nil
}

// put writes one event. From a full inbox the oldest goes: whoever does not come for 10,000 events may lose old keys, but
// shall not fill the disk.
func put(txn store.Txn, pos store.Pos, name string, device matrix.DeviceID, from string, event []byte) error {
	size, err := inboxSize(txn, name, device)
	if err != nil {
		return err
	}
	if from != "" {
		gone, err := noteOrigin(txn, pos, name, device, from)
		if err != nil {
			return err
		}
		size -= min(gone, size)
	}
	if size >= MaxInbox {
		if err := txn.Scan(store.Key(tableInbox, name, device), nil, func(k, v []byte) (bool, error) {
			size--
			return size >= MaxInbox, dropInboxRow(txn, name, device, k, v)
		}); err != nil {
			return err
		}
	}
	return errors.Join(txn.Set(store.Key(tableInbox, name, device, pos), event), setInboxSize(txn, name, device, size+1))
}

func inboxSize(r store.Reader, name string, device matrix.DeviceID) (uint64, error) {
	v, err := getOr(r, store.Key(tableInboxSize, name, device))
	return uint64(posOf(v)), err
}

func setInboxSize(txn store.Txn, name string, device matrix.DeviceID, n uint64) error {
	key := store.Key(tableInboxSize, name, device)
	if n == 0 {
		return txn.Delete(key)
	}
	return txn.Set(key, store.AppendUint64(nil, n))
}

// onceTxn notes a transaction id; done: it was there already. The type is part of it, as it is of the path.
func onceTxn(txn store.Txn, own string, m ToDevice) (done bool, err error) {
	id := m.Type + "\x00" + m.Txn
	key := store.Key(tableToDeviceTxn, own, m.Device, txnByName, id)
	if old, err := getOr(txn, key); err != nil || old != nil {
		return true, err
	}
	hour := uint64(time.Now().Unix() / hourOfTime)
	prefix := store.Key(tableToDeviceTxn, own, m.Device, txnByHour)
	swept := 0
	if err := txn.Scan(prefix, nil, func(k, _ []byte) (bool, error) {
		kr := store.ReadKey(append([]byte{0}, k[len(prefix):]...))
		at, old := kr.Uint64(), kr.String()
		if err := kr.Err(); err != nil {
			return false, err
		}
		if at+txnHours >= hour || swept == txnSweep {
			return false, nil
		}
		swept++
		return true, errors.Join(txn.Delete(k), txn.Delete(store.Key(tableToDeviceTxn, own, m.Device, txnByName, old)))
	}); err != nil {
		return false, err
	}
	return false, errors.Join(
		txn.Set(key, store.AppendUint64(nil, hour)),
		txn.Set(store.Key(tableToDeviceTxn, own, m.Device, txnByHour, hour, id), nil),
	)
}

// Inbox lists the device's to-device events after since and not after upTo, oldest first: at most limit, and no more than
// bytes of them (but one at least). last is the position of the last one listed, if more are there.
func (a *Accounts) Inbox(user matrix.UserID, device matrix.DeviceID, since, upTo store.Pos, limit, size int) (events []json.RawMessage, last store.Pos, more bool, err error) {
	name, ok := a.local(user)
	if !ok {
		return nil, 0, false, ErrNotFound
	}
	prefix := store.Key(tableInbox, name, device)
	err = a.kv.View(func(r store.Reader) error {
		if n, err := inboxSize(r, name, device); err != nil || n == 0 { // cheaper than a scan, and most often so
			return err
		}
		return r.Scan(prefix, store.Key(tableInbox, name, device, since+1), func(k, v []byte) (bool, error) {
			if len(k) != len(prefix)+8 {
				return false, errDataRow
			}
			pos := store.Pos(binary.BigEndian.Uint64(k[len(prefix):]))
			if pos > upTo {
				return false, nil
			}
			size -= len(v)
			if len(events) == limit || size < 0 && len(events) > 0 {
				more = true
				return false, nil
			}
			events, last = append(events, bytes.Clone(v)), pos
			return true, nil
		})
	})
	return events, last, more, err
}

// AckInbox forgets the device's to-device events up to a position: the client has them, for its /sync went on from there.
// Without such events it writes nothing. A crash before it returns leaves them all; they are shown to nobody who goes on
// from that position, and forgotten at the next call.
func (a *Accounts) AckInbox(user matrix.UserID, device matrix.DeviceID, upTo store.Pos) error {
	name, ok := a.local(user)
	if !ok {
		return ErrNotFound
	}
	any := false
	scan := func(r store.Reader, fn func(k, v []byte) (bool, error)) error {
		prefix := store.Key(tableInbox, name, device)
		return r.Scan(prefix, nil, func(k, v []byte) (bool, error) {
			if len(k) != len(prefix)+8 {
				return false, errDataRow
			}
			if store.Pos(binary.BigEndian.Uint64(k[len(prefix):])) > upTo {
				return false, nil
			}
			return fn(k, v)
		})
	}
	if err := a.kv.View(func(r store.Reader) error {
		if n, err := inboxSize(r, name, device); err != nil || n == 0 {
			return err
		}
		return scan(r, func(_, _ []byte) (bool, error) { any = true; return false, nil })
	}); err != nil || !any {
		return err
	}
	return a.kv.Update(func(txn store.Txn) error {
		size, err := inboxSize(txn, name, device)
		if err != nil {
			return err
		}
		if err := scan(txn, func(k, v []byte) (bool, error) {
			if size > 0 {
				size--
			}
			return true, dropInboxRow(txn, name, device, k, v)
		}); err != nil {
			return err
		}
		return setInboxSize(txn, name, device, size)
	})
}
