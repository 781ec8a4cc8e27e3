// SPDX-License-Identifier: Apache-2.0

package room

import (
	"encoding/binary"
	"fmt"

	"tarn/dag"
	"tarn/matrix"
)

// roomRow is what a room is now: written anew with every event, so it is small.
type roomRow struct {
	id      matrix.RoomID
	version matrix.RoomVersion
	active  bool   // has a joined local member: the node takes part
	current uint32 // state id resolved over the heads
	nextID  uint32 // the next state id
	clock   int64  // milliseconds of the newest own event
	last    seq    // of the newest transaction
	bump    seq    // of the newest event by which the room goes to the top of lists (slide.go)
	// The floor: events of the snapshot that the room was joined from have no known state of their own. Those not deeper than
	// floorDepth count as having the state floor (snapshot.go). What is less deep than pastDepth is older than the
	// snapshot's history. 0: the room is known from its beginning.
	floor      uint32
	floorDepth int64
	pastDepth  int64
	gaps       []gap // that are not filled yet
	heads      []hash
}

// reader decodes a value field by field; after a mistake everything is zero and bad is set.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes(n int) []byte {
	if n < 0 || n > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) byte() byte {
	if v := d.bytes(1); v != nil {
		return v[0]
	}
	return 0
}

func (d *decoder) text() string { return string(d.bytes(int(min(d.uvarint(), 1<<20)))) }

func (d *decoder) hash() (h hash) {
	copy(h[:], d.bytes(len(h)))
	return h
}

func (d *decoder) err(what string) error {
	if d.bad {
		return fmt.Errorf("%w: %s", errRow, what)
	}
	return nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (r *roomRow) encode() []byte {
	b := make([]byte, 0, 128+32*len(r.heads))
	flags := byte(0)
	if r.active {
		flags = 1
	}
	b = append(b, 1, flags) // form 1
	b = appendText(b, string(r.id))
	b = appendText(b, string(r.version))
	for _, v := range []uint64{uint64(r.current), uint64(r.nextID), uint64(r.clock), uint64(r.last), uint64(r.floor), uint64(r.floorDepth), uint64(r.pastDepth), uint64(r.bump)} {
		b = binary.AppendUvarint(b, v)
	}
	b = binary.AppendUvarint(b, uint64(len(r.gaps)))
	for _, g := range r.gaps {
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(g.top)), uint64(g.next))
		b = binary.AppendUvarint(b, uint64(g.count))
		hidden := byte(0)
		if g.hidden {
			hidden = 1
		}
		b = append(b, hidden)
	}
	b = binary.AppendUvarint(b, uint64(len(r.heads)))
	for _, h := range r.heads {
		b = append(b, h[:]...)
	}
	return b
}

func decodeRoom(v []byte) (roomRow, error) {
	d := decoder{b: v}
	if d.byte() != 1 {
		return roomRow{}, fmt.Errorf("%w: room", errRow)
	}
	r := roomRow{active: d.byte()&1 != 0, id: matrix.RoomID(d.text()), version: matrix.RoomVersion(d.text())}
	r.current, r.nextID = uint32(d.uvarint()), uint32(d.uvarint())
	r.clock, r.last = int64(d.uvarint()), seq(d.uvarint())
	r.floor, r.floorDepth, r.pastDepth = uint32(d.uvarint()), int64(d.uvarint()), int64(d.uvarint())
	r.bump = seq(d.uvarint())
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		r.gaps = append(r.gaps, gap{seq(d.uvarint()), seq(d.uvarint()), int(d.uvarint()), d.byte() != 0})
	}
	n := d.uvarint()
	for i := uint64(0); i < n && !d.bad; i++ {
		r.heads = append(r.heads, d.hash())
	}
	return r, d.err("room")
}

// held is an event that the node has, and what it knows of it.
type held struct {
	ev       *matrix.Event
	status   dag.Status
	outlier  bool // came with a snapshot or for its auth chain: its parents are not known
	redacted bool // a redaction counts
	told     bool // an outlier of which the states are known, as another node told them (gaps.go)
	spoilt   bool // came with content that does not fit its hash: the redacted form is kept, and a whole one may replace it
	near     bool // the states are only nearly known: all that it stands on is (dag.Approximator)
	// State ids: before and after it, and of the room once it was inserted. 0 for outliers that are not told.
	before, after, now uint32
	place              seq  // where it stands in the node's order
	shown              bool // has a row in the timeline at place
	replaces           hash // of a state event: the one it replaced; zero: none
	related            bool // others relate to it
	device             matrix.DeviceID
	txn                string // what the local device called it
}

// Flags of an eventRow.
const (
	rowOutlier = 1 << iota
	rowRedacted
	rowSpoilt
	rowShown
	rowReplaces
	rowTxn
	rowRelated
	rowTold
)

// rowNear is a flag too, in the byte of the status.
const rowNear = 0x80

// encode: form 1 and flags, status, state ids, place, [replaces], [device, txn], canonical event bytes.
func (h *held) encode() []byte {
	b := make([]byte, 0, 64+len(h.ev.Raw()))
	var flags byte
	for _, f := range []struct {
		on   bool
		flag byte
	}{{h.outlier, rowOutlier}, {h.redacted, rowRedacted}, {h.spoilt, rowSpoilt}, {h.shown, rowShown}, {h.replaces != hash{}, rowReplaces}, {h.txn != "", rowTxn}, {h.related, rowRelated}, {h.told, rowTold}} {
		if f.on {
			flags |= f.flag
		}
	}
	status := byte(h.status)
	if h.near {
		status |= rowNear
	}
	b = append(b, 1, flags, status)
	for _, v := range []uint64{uint64(h.before), uint64(h.after), uint64(h.now), uint64(h.place)} {
		b = binary.AppendUvarint(b, v)
	}
	if flags&rowReplaces != 0 {
		b = append(b, h.replaces[:]...)
	}
	if flags&rowTxn != 0 {
		b = appendText(b, string(h.device))
		b = appendText(b, h.txn)
	}
	return append(b, h.ev.Raw()...)
}

func decodeHeld(v matrix.RoomVersion, id matrix.EventID, row []byte) (*held, error) {
	d := decoder{b: row}
	if d.byte() != 1 {
		return nil, fmt.Errorf("%w: event", errRow)
	}
	flags, status := d.byte(), d.byte()
	h := &held{
		status: dag.Status(status &^ rowNear), near: status&rowNear != 0, outlier: flags&rowOutlier != 0, redacted: flags&rowRedacted != 0,
		spoilt: flags&rowSpoilt != 0, shown: flags&rowShown != 0, related: flags&rowRelated != 0, told: flags&rowTold != 0,
	}
	h.before, h.after, h.now = uint32(d.uvarint()), uint32(d.uvarint()), uint32(d.uvarint())
	h.place = seq(d.uvarint())
	if flags&rowReplaces != 0 {
		h.replaces = d.hash()
	}
	if flags&rowTxn != 0 {
		h.device, h.txn = matrix.DeviceID(d.text()), d.text()
	}
	if err := d.err("event"); err != nil {
		return nil, err
	}
	var err error
	h.ev, err = matrix.Load(v, id, d.b)
	return h, err
}

// userRow is a local user's standing in a room.
type userRow struct {
	membership string
	forgotten  bool
	place      seq    // of the change to it
	event      hash   // the member event
	state      uint32 // of an invite that came with a snapshot: the state there; else 0
}

func (u *userRow) encode() []byte {
	flags := byte(0)
	if u.forgotten {
		flags = 1
	}
	b := []byte{1, flags, membershipByte(u.membership)}
	b = binary.AppendUvarint(b, uint64(u.place))
	b = binary.AppendUvarint(b, uint64(u.state))
	return append(b, u.event[:]...)
}

func decodeUser(v []byte) (userRow, error) {
	d := decoder{b: v}
	if d.byte() != 1 {
		return userRow{}, fmt.Errorf("%w: user", errRow)
	}
	u := userRow{forgotten: d.byte()&1 != 0, membership: membershipName(d.byte())}
	u.place, u.state, u.event = seq(d.uvarint()), uint32(d.uvarint()), d.hash()
	return u, d.err("user")
}

// memberRow is the value of the tables member and history.
func memberRow(membership string, event hash) []byte {
	return append([]byte{membershipByte(membership)}, event[:]...)
}

func decodeMember(v []byte) (membership string, event hash, err error) {
	d := decoder{b: v}
	membership, event = membershipName(d.byte()), d.hash()
	return membership, event, d.err("member")
}

// stateRow: a full state (base 0, depth 0), or what changed from another. Types that every room has are one byte.
type stateRow struct {
	base  uint32
	depth int // of the chain of differences under it
	set   dag.State
	gone  []matrix.StateKey
}

var commonTypes = [...]string{"", matrix.TypeMember, matrix.TypeCreate, matrix.TypePowerLevels, matrix.TypeJoinRules,
	matrix.TypeHistoryVisibility, matrix.TypeGuestAccess, matrix.TypeName, matrix.TypeTopic, matrix.TypeAvatar,
	matrix.TypeCanonicalAlias, matrix.TypeEncryption, matrix.TypeTombstone, matrix.TypeThirdPartyInvite}

func appendSlot(b []byte, k matrix.StateKey) []byte {
	for i, t := range commonTypes {
		if i > 0 && t == k.Type {
			return appendText(append(b, byte(i)), k.Key)
		}
	}
	return appendText(appendText(append(b, 0), k.Type), k.Key)
}

func (d *decoder) slot() matrix.StateKey {
	i := d.byte()
	if i == 0 {
		return matrix.StateKey{Type: d.text(), Key: d.text()}
	}
	if int(i) >= len(commonTypes) {
		d.bad = true
		return matrix.StateKey{}
	}
	return matrix.StateKey{Type: commonTypes[i], Key: d.text()}
}

func (s *stateRow) encode() []byte {
	b := make([]byte, 0, 16+110*len(s.set))
	b = append(b, 1)
	b = binary.AppendUvarint(b, uint64(s.base))
	b = binary.AppendUvarint(b, uint64(s.depth))
	b = binary.AppendUvarint(b, uint64(len(s.set)))
	for k, id := range s.set {
		h := mustHash(id)
		b = append(appendSlot(b, k), h[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(s.gone)))
	for _, k := range s.gone {
		b = appendSlot(b, k)
	}
	return b
}

func decodeState(v []byte) (stateRow, error) {
	d := decoder{b: v}
	if d.byte() != 1 {
		return stateRow{}, fmt.Errorf("%w: state", errRow)
	}
	s := stateRow{base: uint32(d.uvarint()), depth: int(d.uvarint())}
	n := d.uvarint()
	s.set = make(dag.State, min(n, uint64(len(d.b))/33))
	for i := uint64(0); i < n && !d.bad; i++ {
		k := d.slot()
		s.set[k] = d.hash().id()
	}
	n = d.uvarint()
	for i := uint64(0); i < n && !d.bad; i++ {
		s.gone = append(s.gone, d.slot())
	}
	return s, d.err("state")
}
