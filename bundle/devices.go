// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"tarn/matrix"
)

// Limits of keys and to-device messages.
const (
	maxKey      = 16 << 10 // bytes of one signed key
	maxDevices  = 1000     // of one user
	maxFallback = 8        // fallback keys of one device
	maxOneTime  = 100      // one-time keys of one record
	maxMessage  = 64 << 10 // bytes of a to-device message's content
	maxNumber   = 1<<63 - 1
)

// NamedKey is a one-time or fallback key.
type NamedKey struct {
	Name string // algorithm:id
	Key  []byte // JSON: a signed object, or a string
}

// Device is one device of Devices.
type Device struct {
	ID       matrix.DeviceID
	Keys     []byte // JSON, as the device signed it
	Fallback []NamedKey
}

// Devices is a TypeDevices record: all public keys of a user of the sender's.
type Devices struct {
	User        matrix.UserID
	Serial      uint64 // grows with every change; not 0
	Devices     []Device
	Master      []byte // JSON; nil: none
	SelfSigning []byte
}

// Record encodes it: user, serial, list of (id, keys, list of (name, key)), master, self-signing. ErrTooLarge or ErrMalformed if
// ParseDevices would refuse it.
func (d Devices) Record() (Record, error) {
	var w writer
	w.id(string(d.User), '@', "user id")
	w.serial(d.Serial)
	w.number(uint64(len(d.Devices)), maxDevices, "devices")
	for _, x := range d.Devices {
		w.device(x.ID)
		w.key(x.Keys)
		w.keys(x.Fallback, maxFallback, "fallback keys")
	}
	w.bytes(d.Master, maxKey, "master key")
	w.bytes(d.SelfSigning, maxKey, "self-signing key")
	return w.record(TypeDevices, "devices")
}

// ParseDevices decodes a TypeDevices record; the keys are part of data, and not looked at. ErrMalformed, ErrTooLarge.
func ParseDevices(data []byte) (Devices, error) {
	r := &reader{b: data}
	d := Devices{User: matrix.UserID(r.id('@', "user id")), Serial: r.serial()}
	n := r.count(maxDevices, 5, "devices") // two lengths with a byte each, and a count
	if n > 0 {
		d.Devices = make([]Device, 0, n)
	}
	for range n {
		x := Device{ID: r.device(), Keys: r.key()}
		x.Fallback = r.keys(maxFallback, "fallback keys")
		d.Devices = append(d.Devices, x)
	}
	d.Master, d.SelfSigning = some(r.bytes(maxKey, "master key")), some(r.bytes(maxKey, "self-signing key"))
	if err := r.end("devices"); err != nil {
		return Devices{}, err
	}
	return d, nil
}

// OneTimeKeys is a TypeOneTimeKeys record: keys of a device of the sender's, which gave them to nobody else.
type OneTimeKeys struct {
	User   matrix.UserID
	Device matrix.DeviceID
	Batch  uint64 // grows from each batch of the device to the next; not 0
	Keys   []NamedKey
}

// Record encodes it: user, device, batch, list of (name, key). ErrTooLarge or ErrMalformed if ParseOneTimeKeys would refuse it.
func (o OneTimeKeys) Record() (Record, error) {
	var w writer
	w.id(string(o.User), '@', "user id")
	w.device(o.Device)
	w.serial(o.Batch)
	w.keys(o.Keys, maxOneTime, "one-time keys")
	return w.record(TypeOneTimeKeys, "one-time keys")
}

// ParseOneTimeKeys decodes a TypeOneTimeKeys record; the keys are part of data. ErrMalformed, ErrTooLarge.
func ParseOneTimeKeys(data []byte) (OneTimeKeys, error) {
	r := &reader{b: data}
	o := OneTimeKeys{User: matrix.UserID(r.id('@', "user id")), Device: r.device(), Batch: r.serial()}
	o.Keys = r.keys(maxOneTime, "one-time keys")
	if err := r.end("one-time keys"); err != nil {
		return OneTimeKeys{}, err
	}
	return o, nil
}

// KeysWanted is a TypeKeysWanted record: one-time keys of a device of the receiver's are running out.
type KeysWanted struct {
	User     matrix.UserID
	Device   matrix.DeviceID
	Batch    uint64 // the newest that came; 0: none
	Fallback string // name of the fallback key that was given out; "": none was
}

// Record encodes it: user, device, batch, fallback. ErrTooLarge or ErrMalformed if ParseKeysWanted would refuse it.
func (k KeysWanted) Record() (Record, error) {
	var w writer
	w.id(string(k.User), '@', "user id")
	w.device(k.Device)
	w.number(k.Batch, maxNumber, "batch")
	w.text(k.Fallback, maxText, "fallback key")
	return w.record(TypeKeysWanted, "wanted keys")
}

// ParseKeysWanted decodes a TypeKeysWanted record. ErrMalformed, ErrTooLarge.
func ParseKeysWanted(data []byte) (KeysWanted, error) {
	r := &reader{b: data}
	k := KeysWanted{User: matrix.UserID(r.id('@', "user id")), Device: r.device(), Batch: r.number(maxNumber, "batch")}
	k.Fallback = r.text(maxText, "fallback key")
	if err := r.end("wanted keys"); err != nil {
		return KeysWanted{}, err
	}
	return k, nil
}

// Message is a TypeMessage record: a to-device message of a user of the sender's.
type Message struct {
	Number   uint64 // grows from each message of the user for this receiver to the next; not 0
	Previous uint64 // the number of the one before; 0: it is the first
	Sender   matrix.UserID
	User     matrix.UserID
	Device   matrix.DeviceID // "*": all of the user's
	Type     string          // 1 to 255 bytes
	Content  []byte          // JSON, 1 to 65,536 bytes
}

// Record encodes it: number, previous, sender, user, device, type, content. ErrTooLarge or ErrMalformed if ParseMessage would refuse it.
func (m Message) Record() (Record, error) {
	var w writer
	w.serial(m.Number)
	if m.Previous >= m.Number {
		w.fail(ErrMalformed, "previous number")
	}
	w.number(m.Previous, maxNumber, "previous number")
	w.id(string(m.Sender), '@', "user id")
	w.id(string(m.User), '@', "user id")
	w.device(m.Device)
	if m.Type == "" || len(m.Content) == 0 {
		w.fail(ErrMalformed, "message")
	}
	w.text(m.Type, maxText, "message type")
	w.bytes(m.Content, maxMessage, "message")
	return w.record(TypeMessage, "a message")
}

// ParseMessage decodes a TypeMessage record; the content is part of data, and not looked at. ErrMalformed, ErrTooLarge.
func ParseMessage(data []byte) (Message, error) {
	r := &reader{b: data}
	m := Message{Number: r.serial(), Previous: r.number(maxNumber, "previous number")}
	m.Sender, m.User = matrix.UserID(r.id('@', "user id")), matrix.UserID(r.id('@', "user id"))
	m.Device, m.Type = r.device(), r.text(maxText, "message type")
	m.Content = r.bytes(maxMessage, "message")
	if r.err == nil && (m.Previous >= m.Number || m.Type == "" || len(m.Content) == 0) {
		r.fail(ErrMalformed, "message")
	}
	if err := r.end("a message"); err != nil {
		return Message{}, err
	}
	return m, nil
}

// some is b, or nil if it is empty.
func some(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b
}

// serial is a number that is not 0.
func (r *reader) serial() uint64 {
	n := r.number(maxNumber, "serial")
	if r.err == nil && n == 0 {
		r.fail(ErrMalformed, "serial")
	}
	return n
}

func (w *writer) serial(n uint64) {
	if n == 0 {
		w.fail(ErrMalformed, "serial")
	}
	w.number(n, maxNumber, "serial")
}

// device reads a device id: 1 to 255 bytes of text.
func (r *reader) device() matrix.DeviceID {
	s := r.text(maxText, "device id")
	if r.err == nil && s == "" {
		r.fail(ErrMalformed, "device id")
	}
	return matrix.DeviceID(s)
}

func (w *writer) device(id matrix.DeviceID) {
	if id == "" {
		w.fail(ErrMalformed, "device id")
	}
	w.text(string(id), maxText, "device id")
}

// key reads one that is not empty.
func (r *reader) key() []byte {
	b := r.bytes(maxKey, "key")
	if r.err == nil && len(b) == 0 {
		r.fail(ErrMalformed, "key")
	}
	return b
}

func (w *writer) key(b []byte) {
	if len(b) == 0 {
		w.fail(ErrMalformed, "key")
	}
	w.bytes(b, maxKey, "key")
}

// keys reads a list of names and keys.
func (r *reader) keys(max int, what string) []NamedKey {
	n := r.count(max, 4, what) // two lengths, a byte each
	if n == 0 {
		return nil
	}
	out := make([]NamedKey, 0, n)
	for range n {
		k := NamedKey{Name: r.text(maxText, "key name")}
		if r.err == nil && k.Name == "" {
			r.fail(ErrMalformed, "key name")
		}
		k.Key = r.key()
		out = append(out, k)
	}
	return out
}

func (w *writer) keys(list []NamedKey, max int, what string) {
	w.number(uint64(len(list)), uint64(max), what)
	for _, k := range list {
		if k.Name == "" {
			w.fail(ErrMalformed, "key name")
		}
		w.text(k.Name, maxText, "key name")
		w.key(k.Key)
	}
}
