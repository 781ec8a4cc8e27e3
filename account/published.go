// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"tarn/matrix"
	"tarn/store"
)

// Limits of what other servers' nodes can make a node keep.
const (
	MaxRemoteUsers = 1000 // of one server, with keys
	maxRemoteKeys  = 100  // one-time keys of one device at a time
)

// Published are the public keys of a user as other nodes have them: everything that they need to answer a client's
// /keys/query without asking. Signatures in it are the user's own.
type Published struct {
	User        matrix.UserID
	Serial      uint64 // grows with each change; given by who tells them (replicate)
	Devices     []PublishedDevice
	Master      json.RawMessage // nil: none
	SelfSigning json.RawMessage
}

// PublishedDevice is one device's identity keys and fallback keys.
type PublishedDevice struct {
	ID       matrix.DeviceID
	Keys     json.RawMessage
	Fallback []NamedKey // one an algorithm
}

// NamedKey is a one-time or fallback key.
type NamedKey struct {
	Name string          `json:"name"` // algorithm:id
	Key  json.RawMessage `json:"key"`
}

// KeyGeneration grows after every write that may have changed what Published gives, or added one-time keys (and after others), not when such keys are
// given. It grows once that can be read: who reads it before what it counts misses nothing.
func (a *Accounts) KeyGeneration() uint64 { return a.generation.Load() }

// Published reads a local user's keys, as others may see them: no names of devices. Who has no keys, or is deactivated, has
// none. Devices are sorted by id. ErrNotFound for users of other servers.
func (a *Accounts) Published(user matrix.UserID) (Published, error) {
	p := Published{User: user}
	name, ok := a.local(user)
	if !ok {
		return p, ErrNotFound
	}
	k, err := a.Keys(user, user, nil)
	if err != nil {
		return p, err
	}
	p.Master, p.SelfSigning = k.Master, k.SelfSigning
	err = a.kv.View(func(r store.Reader) error {
		for _, id := range slices.Sorted(maps.Keys(k.Devices)) {
			state, err := loadOr[keyState](r, store.Key(tableKeyState, name, id))
			if err != nil {
				return err
			}
			d := PublishedDevice{ID: id, Keys: k.Devices[id]}
			for _, alg := range sorted(state.Fallback) {
				d.Fallback = append(d.Fallback, NamedKey{Name: state.Fallback[alg].Name, Key: state.Fallback[alg].Key})
			}
			p.Devices = append(p.Devices, d)
		}
		return nil
	})
	return p, err
}

// Identity is what a device's one-time keys belong to: they go when it changes.
func (d PublishedDevice) Identity() string {
	var o signedObject
	if json.Unmarshal(d.Keys, &o) != nil {
		return ""
	}
	return o.Keys[algorithmSigning+":"+string(d.ID)] + " " + o.Keys[algorithmPlain+":"+string(d.ID)]
}

// remoteRow is a row of tableRemote.
type remoteRow struct {
	Serial      uint64                           `json:"serial"`
	Devices     map[matrix.DeviceID]remoteDevice `json:"devices,omitempty"`
	Master      json.RawMessage                  `json:"master,omitempty"`
	SelfSigning json.RawMessage                  `json:"self_signing,omitempty"`
}

type remoteDevice struct {
	Keys     json.RawMessage `json:"keys"`
	Fallback []NamedKey      `json:"fallback,omitempty"`
}

// remote splits the id of a user of another server.
func (a *Accounts) remote(user matrix.UserID) (server matrix.ServerName, ok bool) {
	_, server, err := matrix.ParseUserID(user)
	return server, err == nil && server != a.opt.Server && len(user) <= matrix.MaxID
}

func remoteKey(server matrix.ServerName, user matrix.UserID) []byte {
	return store.Key(tableRemote, string(server), string(user))
}

func (a *Accounts) remoteRow(r store.Reader, user matrix.UserID) (row remoteRow, err error) {
	server, ok := a.remote(user)
	if !ok {
		return row, nil
	}
	return loadOr[remoteRow](r, remoteKey(server, user))
}

// SetPublished keeps the keys of a user of the server from, as its node told them, and wakes the topics (who may share a
// room with that user) if there is anything new for clients. All is checked as a local upload is; an older serial than what is
// here, or the same, changes nothing. A crash before it returns leaves what was before; told again it is taken.
// ErrSpeaker. ErrBadKeys, ErrBadSignature, ErrTooLarge.
func (a *Accounts) SetPublished(from matrix.ServerName, p Published, topics []string) error {
	if server, ok := a.remote(p.User); !ok || server != from {
		return fmt.Errorf("%w: keys", ErrSpeaker)
	}
	row, err := checkPublished(p)
	if err != nil {
		return err
	}
	_, err = a.stream.Write(func(txn store.Txn, pos store.Pos) ([]string, error) {
		key := remoteKey(from, p.User)
		old, err := loadOr[remoteRow](txn, key)
		if err != nil || row.Serial <= old.Serial {
			return nil, err
		}
		if old.Serial == 0 {
			if n, err := count(txn, store.Key(tableRemote, string(from)), MaxRemoteUsers); err != nil || n >= MaxRemoteUsers {
				return nil, errors.Join(err, fmt.Errorf("%w: users of one server", ErrTooLarge))
			}
		}
		for id, d := range old.Devices {
			if now, found := row.Devices[id]; found && sameKeys(d.Keys, now.Keys) {
				continue
			}
			if err := dropRemoteKeys(txn, p.User, id); err != nil {
				return nil, err
			}
		}
		// What was signed here is of the key that was.
		if was, ok := crossKey(old.Master); ok {
			if is, _ := crossKey(row.Master); is != was {
				if err := drop(txn, store.Key(tableSignature, p.User, was)); err != nil {
					return nil, err
				}
			}
		}
		if err := save(txn, key, row); err != nil || row.sameTo(old) {
			return nil, err
		}
		return topics, a.markKeys(txn, pos, p.User, "")
	})
	return err
}

// sameTo tells whether clients see no difference.
func (x remoteRow) sameTo(y remoteRow) bool {
	return string(x.Master) == string(y.Master) && string(x.SelfSigning) == string(y.SelfSigning) &&
		maps.EqualFunc(x.Devices, y.Devices, func(a, b remoteDevice) bool { return string(a.Keys) == string(b.Keys) })
}

// checkPublished checks all that another node says of a user: shapes, sizes, signatures. What is signed by anybody else than the
// user is left out: nobody needs it.
func checkPublished(p Published) (remoteRow, error) {
	row := remoteRow{Serial: p.Serial, Devices: map[matrix.DeviceID]remoteDevice{}}
	if p.Serial == 0 || len(p.Devices) > MaxDevices {
		return row, fmt.Errorf("%w: serial or number of devices", ErrBadKeys)
	}
	var err error
	master := ""
	if p.Master != nil {
		if row.Master, master, err = checkCross(p.User, usageMaster, p.Master); err != nil {
			return row, err
		}
	}
	if p.SelfSigning != nil {
		if row.SelfSigning, _, err = checkCross(p.User, usageSelf, p.SelfSigning); err != nil {
			return row, err
		}
		if err := checkSigned(row.SelfSigning, p.User, master, master); err != nil {
			return row, fmt.Errorf("%w: of the master key on the %s key", err, usageSelf)
		}
	}
	for _, d := range p.Devices {
		if !goodDeviceID(d.ID) || d.ID == AllDevices || len(d.Fallback) > MaxFallbacks {
			return row, fmt.Errorf("%w: a device's id, or its fallback keys", ErrBadKeys)
		}
		if _, twice := row.Devices[d.ID]; twice {
			return row, fmt.Errorf("%w: a device twice", ErrBadKeys)
		}
		keys, err := checkDeviceKeys(p.User, d.ID, d.Keys)
		if err != nil {
			return row, err
		}
		signing := deviceSigningKey(keys, d.ID)
		r := remoteDevice{}
		if r.Keys, err = signedBy(keys, p.User); err != nil {
			return row, err
		}
		for _, f := range d.Fallback {
			k, err := checkOneTime(p.User, d.ID, signing, f.Name, f.Key)
			if err != nil {
				return row, err
			}
			r.Fallback = append(r.Fallback, NamedKey{Name: f.Name, Key: k.key})
		}
		row.Devices[d.ID] = r
	}
	for _, k := range []*json.RawMessage{&row.Master, &row.SelfSigning} {
		if *k != nil {
			if *k, err = signedBy(*k, p.User); err != nil {
				return row, err
			}
		}
	}
	return row, nil
}

// signedBy is an object with the signatures of one signer alone.
func signedBy(object json.RawMessage, signer matrix.UserID) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	var o signedObject
	err := errors.Join(json.Unmarshal(object, &fields), json.Unmarshal(object, &o))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadKeys, err)
	}
	if len(o.Signatures) == 0 {
		return object, nil
	}
	own := map[matrix.UserID]map[string]string{}
	if s := o.Signatures[signer]; s != nil {
		own[signer] = s
	}
	if fields["signatures"], err = json.Marshal(own); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// KnowsServer tells whether anything was ever told of the keys of a server's users.
func (a *Accounts) KnowsServer(server matrix.ServerName) (known bool, err error) {
	err = a.kv.View(func(r store.Reader) error {
		n, err := count(r, store.Key(tableRemote, string(server)), 1)
		known = n > 0
		return err
	})
	return known, err
}

// remoteKeys is Keys for a user of another server.
func (a *Accounts) remoteKeys(user, viewer matrix.UserID, devices []matrix.DeviceID) (UserKeys, error) {
	out := UserKeys{Devices: map[matrix.DeviceID]json.RawMessage{}, Names: map[matrix.DeviceID]string{}}
	err := a.kv.View(func(r store.Reader) error {
		row, err := a.remoteRow(r, user)
		if err != nil {
			return err
		}
		for id, d := range row.Devices {
			if devices == nil || slices.Contains(devices, id) {
				out.Devices[id] = d.Keys
			}
		}
		out.SelfSigning = row.SelfSigning
		if public, ok := crossKey(row.Master); ok {
			out.Master, err = a.withSignatures(r, user, public, viewer, row.Master)
		}
		return err
	})
	return out, err
}
