// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"encoding/binary"
	"errors"
	"time"

	"tarn/crypto/onionid"
	"tarn/mailbox"
	"tarn/store"
)

// ErrRow: a row of this package is not readable; the database is damaged or of another version.
var ErrRow = errors.New("replicate: unreadable row")

// The tables. A key is made by store.Key of the table and the parts named here; peer is a contact's server name.
const (
	tableContact  = store.TableContact + 0x0  // peer → contactRow
	tableStreams  = store.TableContact + 0x1  // peer → streamsRow: the ratchet's pair, what was acknowledged last
	tableRecovery = store.TableContact + 0x2  // peer → recoveryRow: one that is under way
	tableBoxMeta  = store.TableContact + 0x3  // peer, epoch, index → boxRow: a box the peer has not acknowledged
	tableBox      = store.TableContact + 0x4  // peer, epoch, index → boxBytes: its sealed bytes, and its plaintext in case it must be sealed anew
	tableItem     = store.TableContact + 0x5  // peer, outbox seq → uvarint: fragments of that item not acknowledged yet (no row: it is in one box)
	tableFragment = store.TableContact + 0x6  // peer, outbox seq, fragment index → fragment that waits for a box
	tableTodo     = store.TableContact + 0x7  // store, a random name → todoRow: a box a digest listed for us, to be fetched
	tableInbox    = store.TableContact + 0x8  // peer, when the contact was made (ms), epoch, index, place → inboxRow: a received record that is not worked off yet
	tableAssembly = store.TableContact + 0x9  // peer, record id, fragment index → fragmentRow: a piece received
	tableGiven    = store.TableContact + 0xa  // peer, server → nothing: that server's certificate was put into a box for peer
	tableWant     = store.TableContact + 0xb  // peer, room, event → wantRow: an event to ask peer for
	tableInvite   = store.TableContact + 0xc  // voucher → inviteRow: a link we made
	tableAccept   = store.TableContact + 0xd  // voucher → acceptRow: a link we follow
	tableDigest   = store.TableContact + 0xe  // store → u64: the first digest bucket not read
	tableGuard    = store.TableContact + 0xf  // mailbox → guardRow: a courier of ours, or one that was replaced for cause
	tableHealth   = store.TableContact + 0x10 // mailbox → healthRow: a store that is not used any more, and why
	tableDrain    = store.TableContact + 0x11 // mailbox → when it ceased to be one of our own: it is read until its boxes are gone
	tableRestored = store.TableContact + 0x12 // nothing: the database was restored from a backup, and the recoveries are not begun
	tableTold     = store.TableContact + 0x13 // peer, user → toldRow: what the contact was told of a user's keys
	tableHanded   = store.TableContact + 0x14 // peer, user, device → handedRow: which one-time keys it was given
	tableErased   = store.TableContact + 0x15 // nothing → uvarint: when the wallet was thrown away, Unix seconds
	tableLeft     = store.TableContact + 0x16 // peer, store, day → leftRow: tokens to be left for the contact, or that they are there
	tableTokenBox = store.TableContact + 0x17 // voucher → linkPurse: the first tokens for who follows a link of ours
	tablePurse    = store.TableContact + 0x18 // store → account: ours, with it
	tableChunk    = store.TableContact + 0x19 // store, day, serial → chunkRow: tokens
	tableUsed     = store.TableContact + 0x1a // store, day, serial → uvarint: how many of that chunk may have been shown
	tableDrawn    = store.TableContact + 0x1b // store, day → uvarint: chunks drawn with our account
	tableDraw     = store.TableContact + 0x1c // store → tokenDraw: the one under way
	tableTokens   = store.TableContact + 0x1d // peer, store, day → uvarint: chunks given to the contact
	tableCut      = store.TableContact + 0x1e // peer → nothing: it is given no more
	tableLie      = store.TableContact + 0x1f // store → Lie: the proof that it told two nodes different things

	tableSources     = store.TableRelay + 0x0 // peer → serial, record: what the contact said last of whose events it gets from themselves
	tableToldSources = store.TableRelay + 0x1 // peer → toldSources: what it was told of that
	tableStranger    = store.TableRelay + 0x2 // server → strangerRow: no contact, but in a room with us; whom we asked for an introduction
	tableIntroducer  = store.TableRelay + 0x3 // peer → introducerRow: what was done for it, and taken from it, of introductions on a day
	tableShunned     = store.TableRelay + 0x4 // server → nothing: a person forgot it; it is not introduced again
	tableUnneeded    = store.TableRelay + 0x5 // peer → time: since when no room needs it, though it was introduced
	tableSigns       = store.TableRelay + 0x8 // peer → nothing: it is told who is here and who types
)

// rowVersion is the first byte of every row here that is not another package's state.
const rowVersion = 1

// maxStores bounds the stores of one node (DESIGN §5: three). PUT slots go to all known stores in turn, by lot: a
// contact that names many slows those that name one.
const maxStores = 3

// writer builds a row or a message.
type writer struct{ b []byte }

func (w *writer) u8(v byte)        { w.b = append(w.b, v) }
func (w *writer) uvarint(v uint64) { w.b = binary.AppendUvarint(w.b, v) }
func (w *writer) raw(b []byte)     { w.b = append(w.b, b...) }
func (w *writer) bytes(b []byte)   { w.uvarint(uint64(len(b))); w.raw(b) }
func (w *writer) str(s string)     { w.uvarint(uint64(len(s))); w.b = append(w.b, s...) }
func (w *writer) time(t time.Time) {
	if t.IsZero() {
		w.uvarint(0)
		return
	}
	w.uvarint(uint64(t.UnixMilli()))
}
func (w *writer) flag(v bool) {
	if v {
		w.u8(1)
	} else {
		w.u8(0)
	}
}
func (w *writer) stores(a []mailbox.Address) {
	w.uvarint(uint64(len(a)))
	for _, s := range a {
		w.str(string(s.Onion))
	}
}

// reader takes one apart. After a mistake every further field is zero and err says so.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) raw(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}
func (r *reader) u8() byte {
	b := r.raw(1)
	if r.bad {
		return 0
	}
	return b[0]
}
func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 || n > 1 && r.b[n-1] == 0 { // one spelling only
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

// bytes reads a field of at most limit bytes; the slice is part of the row.
func (r *reader) bytes(limit int) []byte {
	n := r.uvarint()
	if n > uint64(limit) {
		r.bad = true
		return nil
	}
	return r.raw(int(n))
}
func (r *reader) str(limit int) string { return string(r.bytes(limit)) }
func (r *reader) key32() (k [32]byte)  { copy(k[:], r.raw(32)); return k }
func (r *reader) flag() bool {
	v := r.u8()
	if v > 1 {
		r.bad = true
	}
	return v == 1
}
func (r *reader) time() time.Time {
	v := r.uvarint()
	if v > maxUnix*1000 {
		r.bad = true
	}
	if r.bad || v == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(v))
}
func (r *reader) name() onionid.Name {
	n, err := onionid.Parse(r.str(62))
	if err != nil {
		r.bad = true
	}
	return n
}

// maybeName is a name, or empty.
func (r *reader) maybeName() onionid.Name {
	if len(r.b) > 0 && r.b[0] == 0 {
		r.b = r.b[1:]
		return ""
	}
	return r.name()
}
func (r *reader) stores() []mailbox.Address {
	n := r.uvarint()
	if n > maxStores {
		r.bad = true
	}
	var out []mailbox.Address
	for i := uint64(0); i < n && !r.bad; i++ {
		out = append(out, mailbox.Address{Onion: r.name()})
	}
	return out
}
func (r *reader) version() {
	if r.u8() != rowVersion {
		r.bad = true
	}
}

// end is ErrRow if anything was malformed or is left.
func (r *reader) end() error {
	if r.bad || len(r.b) != 0 {
		return ErrRow
	}
	return nil
}
