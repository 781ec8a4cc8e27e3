// SPDX-License-Identifier: Apache-2.0

package room

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"tarn/crypto/onionid"
	"tarn/dag"
	"tarn/matrix"
	"tarn/store"
)

// Errors of this package; clientapi gives them their errcodes.
var (
	ErrUnknownRoom  = errors.New("room: not known here")
	ErrUnknownEvent = errors.New("room: no such event, or not visible to this user")
	ErrForbidden    = errors.New("room: not allowed by the room's rules") // wraps the auth rule's words
	ErrNotMember    = errors.New("room: the user is not in the room")
	ErrTooLarge     = errors.New("room: event exceeds 65,536 bytes")
	ErrBadVersion   = errors.New("room: room version is not supported")
	ErrBadEvent     = errors.New("room: event is malformed")
	ErrNoState      = errors.New("room: no such state")
)

// Rooms is the one writer of room data. Safe for concurrent use; one lock a room.
type Rooms struct{}

// Options of a node's rooms.
type Options struct {
	Signer      matrix.Signer
	Certificate onionid.Certificate                                 // of Signer's key; goes along with snapshots
	Profile     func(matrix.UserID) (displayName, avatarURL string) // of local users, for their member events; may be nil
}

// Open reads the schema; it starts nothing.
func Open(kv store.KV, stream *store.Stream, o Options) (*Rooms, error) { panic("unwritten") }

// NewEvent is what a local user wants to send.
type NewEvent struct {
	Room     matrix.RoomID
	Sender   matrix.UserID
	Type     string
	StateKey *string
	Content  json.RawMessage
	Redacts  matrix.EventID
	Device   matrix.DeviceID // with Txn: the same pair gives the same event id again (C-S API "Transaction identifiers")
	Txn      string
}

// Send builds, signs, authorises and stores an event: ONE transaction writes event, heads, state, stream position,
// transaction id, and an outbox row for each remote server that has a joined (or by this event invited, left,
// kicked, banned) member. When it returns the event survives kill -9; the network is untouched.
func (r *Rooms) Send(ctx context.Context, n NewEvent) (matrix.EventID, error) { panic("unwritten") }

// Create of a room, by the spec's order of events (POST /createRoom).
type Create struct {
	Creator         matrix.UserID
	Version         matrix.RoomVersion // "": 12
	Preset          string             // private_chat, trusted_private_chat, public_chat; "" from Public
	Public          bool               // visibility: public
	Name, Topic     string
	Alias           string // localpart of a local alias, or ""
	Invite          []matrix.UserID
	Direct          bool // is_direct on the invites
	CreationContent json.RawMessage
	InitialState    []StateEvent
	PowerLevels     json.RawMessage // power_level_content_override
}

// StateEvent is a piece of state to be set.
type StateEvent struct {
	Type     string          `json:"type"`
	StateKey string          `json:"state_key"`
	Content  json.RawMessage `json:"content"`
}

// Create makes a room with all its first events, invites included.
func (r *Rooms) Create(ctx context.Context, c Create) (matrix.RoomID, error) { panic("unwritten") }

// SetMembership is invite, join, leave (also reject an invite), kick, ban, unban (leave for a banned target), by actor on target.
// A join from an invite works alone and offline from the invite's snapshot. ErrForbidden, ErrUnknownRoom.
func (r *Rooms) SetMembership(ctx context.Context, room matrix.RoomID, actor, target matrix.UserID, membership, reason string, direct bool) (matrix.EventID, error) {
	panic("unwritten")
}

// Forget hides a left room from its user (POST /forget); ErrForbidden while still in it.
func (r *Rooms) Forget(user matrix.UserID, room matrix.RoomID) error { panic("unwritten") }

// ResolveAlias of a local alias ("#x:server").
func (r *Rooms) ResolveAlias(alias string) (matrix.RoomID, error) { panic("unwritten") }

// Reading. Each checks what user may see ("History visibility"); a user who left sees the room as it was then.

// Event reads one.
func (r *Rooms) Event(user matrix.UserID, room matrix.RoomID, id matrix.EventID) (Entry, error) {
	panic("unwritten")
}

// State reads the room's state (as of the user's leaving).
func (r *Rooms) State(user matrix.UserID, room matrix.RoomID) ([]*matrix.Event, error) {
	panic("unwritten")
}

// StateEvent reads one piece of it; ErrNoState.
func (r *Rooms) StateEvent(user matrix.UserID, room matrix.RoomID, key matrix.StateKey) (*matrix.Event, error) {
	panic("unwritten")
}

// Members lists member events; at 0: now.
func (r *Rooms) Members(user matrix.UserID, room matrix.RoomID, at store.Pos) ([]*matrix.Event, error) {
	panic("unwritten")
}

// Membership of user in room ("" if never).
func (r *Rooms) Membership(user matrix.UserID, room matrix.RoomID) (string, error) {
	panic("unwritten")
}

// Joined lists the rooms that user is joined to.
func (r *Rooms) Joined(user matrix.UserID) ([]matrix.RoomID, error) { panic("unwritten") }

// Entry is an event with what is known of it here.
type Entry struct {
	*matrix.Event
	Pos         store.Pos // its place in the local order
	Txn         string    // set only if (user, device) that asks sent it
	RedactedBy  *matrix.Event
	PrevContent json.RawMessage // of the state it replaced, for unsigned
}

// Page is a piece of a room's history in local order: every event exactly once over all pages.
type Page struct {
	Events     []Entry
	Start, End store.Pos // End: where to go on; More: there is something there
	More       bool
}

// Messages pages from a position: back (newest first, events with Pos <= from... of the room only) or forward.
func (r *Rooms) Messages(user matrix.UserID, room matrix.RoomID, from store.Pos, back bool, limit int, keep func(Entry) bool) (Page, error) {
	panic("unwritten")
}

// Context reads an event, and up to limit events before and after it, and the state there.
func (r *Rooms) Context(user matrix.UserID, room matrix.RoomID, id matrix.EventID, limit int) (before, after Page, ev Entry, state []*matrix.Event, err error) {
	panic("unwritten")
}

// Sync.

// Change is what a room has new for a user since a position.
type Change struct {
	Room            matrix.RoomID
	Membership      string // now (at upTo): join, invite, knock, leave, ban
	Newly           bool   // the user joined after since (or since is 0): State is then the whole state at the timeline's start
	Timeline        []Entry
	Limited         bool
	PrevBatch       store.Pos
	State           []*matrix.Event   // changes before the timeline's start that the timeline does not show
	Invite          []json.RawMessage // stripped state, for invite and knock
	Receipts        []Receipt
	Typing          []matrix.UserID
	TypingNew       bool
	Joined, Invited int
	Heroes          []matrix.UserID
}

// Receipt is a user's read marker.
type Receipt struct {
	User   matrix.UserID
	Event  matrix.EventID
	Type   string // m.read, m.read.private
	Thread string
	Time   time.Time
}

// SyncOptions come from the client's filter.
type SyncOptions struct {
	Device        matrix.DeviceID // whose transaction ids are shown
	TimelineLimit int
	FullState     bool
	IncludeLeave  bool
	KeepRoom      func(matrix.RoomID) bool // nil: all
	KeepTimeline  func(*matrix.Event) bool // nil: all
}

// Sync lists what changed for user after since and not after upTo (a position that Stream.Current gave).
func (r *Rooms) Sync(user matrix.UserID, since, upTo store.Pos, o SyncOptions) ([]Change, error) {
	panic("unwritten")
}

// Ephemeral.

// SetTyping; local to the node.
func (r *Rooms) SetTyping(user matrix.UserID, room matrix.RoomID, typing bool, timeout time.Duration) error {
	panic("unwritten")
}

// SetReceipt stores a read receipt; m.read goes to the outbox too, m.read.private never leaves the node.
func (r *Rooms) SetReceipt(room matrix.RoomID, rc Receipt) error { panic("unwritten") }

// Between nodes.

// AddCertificate stores a server's event-signing key.
func (r *Rooms) AddCertificate(c onionid.Certificate) error { panic("unwritten") }

// Certificate finds it again.
func (r *Rooms) Certificate(server matrix.ServerName) (onionid.Certificate, bool, error) {
	panic("unwritten")
}

// Ingested says what became of events from another node.
type Ingested struct {
	Stored  []matrix.EventID                   // new here, now durable
	Missing map[matrix.RoomID][]matrix.EventID // to be asked for: parents and auth events not held
	Bad     int                                // refused: malformed, wrong signature, sender's server has no business in the room
}

// Ingest takes raw events of a room as another node gave them. Each is verified (signature by a known certificate,
// auth rules) and stored in a transaction like Send's; what lacks parents waits, durably and bounded, and is inserted when they come. Doubles are nothing.
// from is the contact that delivered, not the author.
func (r *Rooms) Ingest(ctx context.Context, from matrix.ServerName, room matrix.RoomID, events [][]byte) (Ingested, error) {
	panic("unwritten")
}

// Snapshot is what lets a node take part in a room alone and offline: it goes with an invite.
type Snapshot struct {
	Room         matrix.RoomID
	Version      matrix.RoomVersion
	Event        matrix.EventID // the invite (or membership event) it goes with; in Events
	Heads        []matrix.EventID
	Events       [][]byte         // state at Event, its auth chain, the last events as far as visibility allows; parents first
	State        []matrix.EventID // which of them are the state before Event
	Certificates [][]byte         // of every server that signed one of them
}

// Snapshot assembles one for the membership event.
func (r *Rooms) Snapshot(room matrix.RoomID, event matrix.EventID) (*Snapshot, error) {
	panic("unwritten")
}

// IngestSnapshot takes an invite (checked whole before anything is kept): the invited local user sees it in /sync.
func (r *Rooms) IngestSnapshot(ctx context.Context, from matrix.ServerName, s *Snapshot) error {
	panic("unwritten")
}

// IngestReceipts takes another node's read receipts; those for users not of the sender's server are dropped.
func (r *Rooms) IngestReceipts(from matrix.ServerName, room matrix.RoomID, rs []Receipt) error {
	panic("unwritten")
}

// Raw reads an event's wire bytes for a server that is or was in the room when it may see it ("want" records); ErrUnknownEvent.
func (r *Rooms) Raw(room matrix.RoomID, id matrix.EventID) ([]byte, error) { panic("unwritten") }

// MayHave tells whether server may be given the room's event (it is in the room, and visibility allows it).
func (r *Rooms) MayHave(server matrix.ServerName, room matrix.RoomID, id matrix.EventID) (bool, error) {
	panic("unwritten")
}

// Heads are the room's forward extremities, for "heads" summaries; and whether server shares the room.
func (r *Rooms) Heads(room matrix.RoomID) ([]matrix.EventID, error) { panic("unwritten") }

// Shared lists the rooms that have joined members of both this node and server.
func (r *Rooms) Shared(server matrix.ServerName) ([]matrix.RoomID, error) { panic("unwritten") }

// Servers lists the remote servers with joined members.
func (r *Rooms) Servers(room matrix.RoomID) ([]matrix.ServerName, error) { panic("unwritten") }

// Status of an event here, for tests and doctors.
func (r *Rooms) Status(room matrix.RoomID, id matrix.EventID) (dag.Status, error) { panic("unwritten") }
