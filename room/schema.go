// SPDX-License-Identifier: Apache-2.0

package room

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"tarn/matrix"
	"tarn/store"
)

// The tables of this package and the form of every row. Numbers in keys are big-endian, so that they sort; in values
// uvarints. "n" is a room's small number, "event" the 32 bytes of an event id's hash, "seq" a place in the node's
// order: 6 bytes stream position, 2 bytes number within that transaction (order.go). Texts that are
// followed by something in a key end with a zero byte, which no Matrix id that gets here has.
//
//	number      room id                         -> n (4)
//	room        n                               -> roomRow
//	event       n, event                        -> eventRow: each event is stored here and nowhere else
//	timeline    n, seq                          -> event: what clients see, in order
//	state       n, state id (4)                 -> stateRow: a full state, or a difference from another
//	member      n, user                         -> membership (1), event: the current state's members
//	user        user, 0, n                      -> userRow: the rooms of a local user
//	history     n, user, 0, seq                 -> membership (1), event: a local user's changes of membership
//	server      server, 0, n                    -> empty: the server has a joined member
//	guest       server, 0, n                    -> empty: the server has an invited member
//	txn         hash of user, device, n, txn    -> day (4), event: transaction ids of clients
//	txnDay      day (4), hash                   -> empty: when they may be forgotten
//	alias       alias                           -> room id
//	roomAlias   room id, 0, alias               -> empty: the same from the other end
//	receipt     n, user, 0, type, 0, thread     -> position (8)
//	receiptPos  n, position (8), user, 0, type, 0, thread -> milliseconds (8), event id
//	certificate server, 0, key id               -> certificate; without a key id: the newest one's key id
//	pending     n, event                        -> pendingRow: events that wait for others
//	waiting     n, event awaited, event waiting -> empty
//	redaction   n, event redacted, event        -> empty: redactions, also of events that are not here yet
//	edge        n, event                        -> empty: parents of a snapshot's events that are not here
//	counter     (nothing)                       -> the last n that was given out (4)
//	published   n                               -> empty: the room is in this node's directory
//	relation    n, event, kind (1), seq         -> event: those that relate to it, in order (relations.go)
//	annotation  n, event, 16 bytes of a hash    -> event: who annotated it with what type and key
//	thread      n, event                        -> threadRow of the thread that it is the root of
//	threadOrder n, seq of the latest            -> event: the roots
//	participant n, event, user                  -> how many events a local user has in the thread
//	word        n, word, 0, seq             -> empty: messages, names and topics that have it (search.go)
//	asking      'q', key                        -> JSON of what is asked of contacts (asking.go)
//	asking      's', n, user                    -> JSON of the stripped state of a room that a local user knocked at
//	asking      'h', n, server                  -> seq up to which an answer gave the room to a server that is not in it yet
//	asking      'e', n, server                  -> seq of the event by which a server is not in the room any more that is not about it (parted.go)
//	asking      'p', n, the gap's top (8)       -> JSON of what is missing before a snapshot's events (gaps.go)
//	time        n, milliseconds (8), seq        -> empty: what the timeline has, by its senders' clocks
const (
	tabNumber = store.TableRoom + iota
	tabRoom
	tabEvent
	tabTimeline
	tabState
	tabMember
	tabUser
	tabHistory
	tabServer
	tabTxn
	tabTxnDay
	tabAlias
	tabReceipt
	tabReceiptPos
	tabCertificate
	tabPending
	tabWaiting
	tabRedaction
	tabEdge
	tabCounter
	tabPublished
	tabRelation
	tabAnnotation
	tabThread
	tabThreadOrder
	tabParticipant
	tabTime
	tabWord
	tabRoomAlias
	tabGuest
	tabAsking
)

var errRow = errors.New("room: a row of the database is damaged")

// hash is an event id without "$" and base64: what rows hold of it.
type hash [32]byte

// hashOf is the row form of an event id. Ids that come out of package matrix always have one.
func hashOf(id matrix.EventID) (h hash, err error) {
	if len(id) != 44 || id[0] != '$' {
		return h, fmt.Errorf("%w: event id", ErrBadEvent)
	}
	if n, err := base64.RawURLEncoding.Strict().Decode(h[:], []byte(id[1:])); err != nil || n != len(h) {
		return h, fmt.Errorf("%w: event id", ErrBadEvent)
	}
	return h, nil
}

// mustHash is hashOf for ids of events that package matrix has read.
func mustHash(id matrix.EventID) hash {
	h, err := hashOf(id)
	if err != nil {
		panic("room: a parsed event has the id " + string(id))
	}
	return h
}

func (h hash) id() matrix.EventID {
	var b [44]byte
	b[0] = '$'
	base64.RawURLEncoding.Encode(b[1:], h[:])
	return matrix.EventID(b[:])
}

// key begins a key of a table that is sorted by room number.
func key(table byte, n uint32, more int) []byte {
	k := make([]byte, 5, 5+more)
	k[0] = table
	binary.BigEndian.PutUint32(k[1:], n)
	return k
}

func numberKey(room matrix.RoomID) []byte { return append([]byte{tabNumber}, room...) }
func roomKey(n uint32) []byte             { return key(tabRoom, n, 0) }
func eventKey(n uint32, h hash) []byte    { return append(key(tabEvent, n, 32), h[:]...) }
func timelineKey(n uint32, s seq) []byte {
	return binary.BigEndian.AppendUint64(key(tabTimeline, n, 8), uint64(s))
}
func stateKey(n, id uint32) []byte {
	return binary.BigEndian.AppendUint32(key(tabState, n, 4), id)
}
func memberKey(n uint32, u matrix.UserID) []byte {
	return append(key(tabMember, n, len(u)), u...)
}
func userPrefix(u matrix.UserID) []byte {
	return append(append([]byte{tabUser}, u...), 0)
}
func userKey(u matrix.UserID, n uint32) []byte {
	return binary.BigEndian.AppendUint32(userPrefix(u), n)
}
func historyPrefix(n uint32, u matrix.UserID) []byte {
	return append(append(key(tabHistory, n, len(u)+9), u...), 0)
}
func historyKey(n uint32, u matrix.UserID, s seq) []byte {
	return binary.BigEndian.AppendUint64(historyPrefix(n, u), uint64(s))
}
func serverPrefix(s matrix.ServerName) []byte {
	return append(append([]byte{tabServer}, s...), 0)
}
func serverKey(s matrix.ServerName, n uint32) []byte {
	return binary.BigEndian.AppendUint32(serverPrefix(s), n)
}
func guestPrefix(s matrix.ServerName) []byte {
	return append(append([]byte{tabGuest}, s...), 0)
}
func guestKey(s matrix.ServerName, n uint32) []byte {
	return binary.BigEndian.AppendUint32(guestPrefix(s), n)
}
func txnKey(h [16]byte) []byte { return append([]byte{tabTxn}, h[:]...) }
func txnDayKey(day uint32, h [16]byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{tabTxnDay}, day), h[:]...)
}
func aliasKey(a string) []byte { return append([]byte{tabAlias}, a...) }
func roomAliasPrefix(room matrix.RoomID) []byte {
	return append(append([]byte{tabRoomAlias}, room...), 0)
}
func roomAliasKey(room matrix.RoomID, a string) []byte { return append(roomAliasPrefix(room), a...) }
func receiptKey(n uint32, rc Receipt) []byte {
	return append(key(tabReceipt, n, 128), receiptName(rc)...)
}
func receiptPosKey(n uint32, pos store.Pos, rc Receipt) []byte {
	k := binary.BigEndian.AppendUint64(key(tabReceiptPos, n, 128), uint64(pos))
	return append(k, receiptName(rc)...)
}
func receiptName(rc Receipt) string {
	return string(rc.User) + "\x00" + rc.Type + "\x00" + rc.Thread
}
func certificateKey(s matrix.ServerName, keyID string) []byte {
	k := append(append([]byte{tabCertificate}, s...), 0)
	return append(k, keyID...)
}
func pendingKey(n uint32, h hash) []byte { return append(key(tabPending, n, 32), h[:]...) }
func waitingPrefix(n uint32, on hash) []byte {
	return append(key(tabWaiting, n, 64), on[:]...)
}
func waitingKey(n uint32, on, who hash) []byte { return append(waitingPrefix(n, on), who[:]...) }
func redactionPrefix(n uint32, target hash) []byte {
	return append(key(tabRedaction, n, 64), target[:]...)
}
func redactionKey(n uint32, target, by hash) []byte {
	return append(redactionPrefix(n, target), by[:]...)
}
func edgeKey(n uint32, h hash) []byte { return append(key(tabEdge, n, 32), h[:]...) }
func counterKey() []byte              { return []byte{tabCounter} }

// Memberships as one byte.
var memberships = [...]string{"", matrix.MemberJoin, matrix.MemberInvite, matrix.MemberLeave, matrix.MemberBan, matrix.MemberKnock}

func membershipByte(s string) byte {
	for i, m := range memberships {
		if m == s {
			return byte(i)
		}
	}
	return 0
}

func membershipName(b byte) string {
	if int(b) < len(memberships) {
		return memberships[b]
	}
	return ""
}
