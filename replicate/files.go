// SPDX-License-Identifier: Apache-2.0

package replicate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tarn/bundle"
	"tarn/matrix"
	"tarn/media"
	"tarn/room"
)

// Files between nodes: a node asks for those that events name and for those that a client wants to see, and gives its own in parts. Package media keeps
// what is asked, what came and what was given; here is when it goes: questions with the next box, parts in what room boxes have left, and
// in boxes of their own when nobody has anything else to say. A client's request changes rows and never a slot. SPEC §8.14.

// Files is what the engine needs of *media.Store. Safe for concurrent use; what returns nil is durable.
type Files interface {
	Want(r media.Remote, again bool) error
	Asks(server matrix.ServerName, now time.Time, n int) []media.Ask
	Asked(asks []media.Ask, wait time.Duration) error
	RemoteMax() int64
	Describe(r media.Remote, d media.Description) error
	AddPart(r media.Remote, part uint64, b []byte) error
	Give(ctx context.Context, ask media.Ask, most int64, pause time.Duration, may func(matrix.UserID) bool) error
	Owes(server matrix.ServerName, now time.Time) bool
	Next(server matrix.ServerName, n int) ([]media.Piece, error)
	Gave(p media.Piece, taken int) error
	Transfers(server matrix.ServerName) media.Transfers
	ForgetServer(server matrix.ServerName) error
	Expire(now time.Time) error
}

var _ Files = (*media.Store)(nil)

// Bounds of files in boxes.
const (
	packFiles = 16 // questions in one box
	packParts = 8  // parts that are read for one box: three fit, and more if they compress
	fileAhead = 64 // boxes above the first that the peer lacks, beyond which no parts are sent: a peer that is off costs no more
	fileShare = 8  // one in how many PUTs may carry parts first while somebody waits for something else
	fileIdle  = 3  // one in how many PUTs with nothing else carries no parts: who reads as often as we write never ends, and messages wait behind
	fileWait  = 4  // times Retransmit without progress, until a file is asked for again
	fileTime  = 3 * time.Hour
)

// The two packages cut files alike.
const _ = uint(bundle.MediaPart-media.PartSize) + uint(media.PartSize-bundle.MediaPart)

// MediaLimit is the greatest file that boxes should carry: what three hours' frames hold, if nothing else is said; at most most.
func (p Profile) MediaLimit(most int64) int64 {
	return min(most, int64(fileTime/p.Frame)*3*bundle.MediaPart)
}

// Reaches tells whether server is a contact, from whom files can come.
func (e *Engine) Reaches(server matrix.ServerName) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.contacts[server] != nil
}

// fileQuestions tells whether something is to be asked.
func (e *Engine) fileQuestions(c *contact, now time.Time) bool {
	return e.files != nil && len(e.files.Asks(c.name, now, 1)) > 0
}

// owesFiles tells whether parts are to be sent, and may be.
func (e *Engine) owesFiles(c *contact, now time.Time) bool {
	return e.files != nil && c.roomForBox(fileAhead) && e.files.Owes(c.name, now)
}

// filesFirst is putFiles in a share of the slots, so that files come on, if slowly, though somebody always has something to say. The caller holds mu.
func (e *Engine) filesFirst(w *where, now time.Time) (job, bool) {
	if e.files == nil || e.rng.IntN(fileShare) > 0 {
		return job{}, false
	}
	return e.putFiles(w, now)
}

// filesLast is putFiles in most of the slots that nobody else needs. The caller holds mu.
func (e *Engine) filesLast(now time.Time, at ...*where) (job, bool) {
	if e.files == nil || e.rng.IntN(fileIdle) == 0 {
		return job{}, false
	}
	for _, w := range at {
		if j, ok := e.putFiles(w, now); ok {
			return j, true
		}
	}
	return job{}, false
}

// putFiles finds a box with parts of files for a contact, by lot. The caller holds mu.
func (e *Engine) putFiles(w *where, now time.Time) (job, bool) {
	payable := *w // boxes go only where there is a token for them
	payable.places = keep(w.places, func(d *depot) bool { return e.canPay(d, now) })
	if len(payable.places) == 0 {
		return job{}, false
	}
	var to []*contact
	for _, c := range e.contacts {
		if c.state == contactActive && payable.takes(c) && !c.lost() && c.recovery == nil && payable.aimNext(c) != nil && e.owesFiles(c, now) {
			to = append(to, c)
		}
	}
	if len(to) == 0 {
		return job{}, false
	}
	slices.SortFunc(to, func(a, b *contact) int { return strings.Compare(string(a.name), string(b.name)) })
	c := to[e.rng.IntN(len(to))]
	f, err := e.fill(c, now)
	if err != nil || !f.eliciting {
		e.log.Warn("a box of a file could not be filled")
		e.log.Debug("filling a box", "err", err)
		return job{}, false
	}
	return e.seal(c, f, &payable, now)
}

// addQuestions puts the questions that are due into a box.
func (e *Engine) addQuestions(c *contact, f *filling, now time.Time, add func(func(*bundle.Packer) bool) bool) {
	if e.files == nil {
		return
	}
	for _, a := range e.files.Asks(c.name, now, packFiles) {
		id, ok := media.DecodeID(a.ID)
		if !ok {
			continue
		}
		rec, err := bundle.MediaWanted{MediaName: bundle.MediaName{ID: id, Small: a.Small}, From: a.From, To: a.To, Max: uint64(e.files.RemoteMax())}.Record()
		if err != nil || !add(func(p *bundle.Packer) bool { return p.Add(rec) }) {
			return
		}
		f.questions = append(f.questions, a)
	}
}

// addParts fills what is left of a box with files.
func (e *Engine) addParts(c *contact, f *filling, now time.Time) {
	if f.packer == nil || !e.owesFiles(c, now) {
		return
	}
	pieces, err := e.files.Next(c.name, packParts)
	if err != nil {
		e.log.Warn("reading a file for a contact")
		e.log.Debug("reading a file", "err", err)
	}
	for _, p := range pieces {
		id, ok := media.DecodeID(p.ID)
		if !ok {
			continue
		}
		name := bundle.MediaName{ID: id, Small: p.Small}
		if p.Describe {
			rec, err := bundle.Media{MediaName: name, Hash: p.Hash, Size: uint64(p.Size), Type: p.Type, File: p.Name}.Record()
			if err != nil {
				rec, err = bundle.Media{MediaName: name}.Record() // larger than a record can say
			}
			if err != nil || !f.packer.Add(rec) {
				return
			}
			f.eliciting = true
		}
		taken := 0
		for _, b := range p.Parts {
			rec, err := bundle.MediaBytes{MediaName: name, Part: p.First + uint64(taken), Bytes: b}.Record()
			if err != nil || !f.packer.Add(rec) {
				break
			}
			f.eliciting = true
			taken++
		}
		if p.Describe || taken > 0 {
			f.files = append(f.files, gave{p, taken})
		}
		if taken < len(p.Parts) {
			return // full
		}
	}
}

// gave is a piece that is in a box.
type gave struct {
	media.Piece
	taken int
}

// noteFiles notes what of files is in a box that is on the disk. A crash before it asks, or gives, the same again, which is harmless.
func (e *Engine) noteFiles(f *filling) {
	var errs []error
	if len(f.questions) > 0 {
		errs = append(errs, e.files.Asked(f.questions, fileWait*e.profile.Load().Retransmit))
	}
	for _, g := range f.files {
		errs = append(errs, e.files.Gave(g.Piece, g.taken))
	}
	if err := errors.Join(errs...); err != nil {
		e.log.Warn("noting what of files is on its way")
		e.log.Debug("noting files", "err", err)
	}
}

// takeMediaWanted is a contact that asks for a file of ours. It gets those whose uploader shares a room with its server: who knows a file's name,
// 128 random bits, was told it in an event, maybe in an encrypted one that nobody else can read.
func (e *Engine) takeMediaWanted(ctx context.Context, c *contact, data []byte) error {
	m, err := bundle.ParseMediaWanted(data)
	if err != nil {
		return refuse(err)
	}
	sharers, err := e.rooms.Sharers(c.name)
	if err != nil {
		return err
	}
	ask := media.Ask{Remote: media.Remote{Server: c.name, ID: media.EncodeID(m.ID), Small: m.Small}, From: m.From, To: m.To}
	err = e.files.Give(ctx, ask, int64(m.Max), e.profile.Load().Retransmit, func(u matrix.UserID) bool { return slices.Contains(sharers, u) })
	if errors.Is(err, media.ErrPending) || errors.Is(err, media.ErrNotFound) {
		return refuse(err)
	}
	return err
}

func (e *Engine) takeMedia(c *contact, data []byte) error {
	m, err := bundle.ParseMedia(data)
	if err != nil {
		return refuse(err)
	}
	return unasked(e.files.Describe(media.Remote{Server: c.name, ID: media.EncodeID(m.ID), Small: m.Small},
		media.Description{Hash: m.Hash, Size: int64(m.Size), Meta: media.Meta{Type: m.Type, Name: m.File}}))
}

func (e *Engine) takeMediaPart(c *contact, data []byte) error {
	m, err := bundle.ParseMediaBytes(data)
	if err != nil {
		return refuse(err)
	}
	return unasked(e.files.AddPart(media.Remote{Server: c.name, ID: media.EncodeID(m.ID), Small: m.Small}, m.Part, m.Bytes))
}

func unasked(err error) error {
	if errors.Is(err, media.ErrUnasked) {
		return refuse(err)
	}
	return err
}

// wantFilesOf asks for the files that new events name. A crash between the events and this leaves them to the clients' requests.
func (e *Engine) wantFilesOf(c *contact, id matrix.RoomID, events []matrix.EventID) error {
	if e.files == nil {
		return nil
	}
	for _, ev := range events {
		raw, err := e.rooms.RawFor(c.name, id, ev)
		if err != nil {
			continue // it may not be told, or is gone
		}
		if err := e.wantNamed(raw, false); err != nil {
			return err
		}
	}
	return nil
}

// wantAvatars asks for the small pictures that a snapshot's state names: clients show them before anything else.
func (e *Engine) wantAvatars(s *room.Snapshot) error {
	if e.files == nil {
		return nil
	}
	for _, raw := range s.Events {
		if err := e.wantNamed(raw, true); err != nil {
			return err
		}
	}
	return nil
}

// wantNamed asks for the files, or the thumbnails alone, that an event names.
func (e *Engine) wantNamed(raw []byte, small bool) error {
	for _, r := range namedFiles(raw, e.files.RemoteMax()) {
		if small && !r.Small || !e.Reaches(r.Server) {
			continue
		}
		if err := e.files.Want(r, false); err != nil && !errors.Is(err, media.ErrPending) && !errors.Is(err, media.ErrNotFound) {
			return fmt.Errorf("want a file: %w", err)
		}
	}
	return nil
}

// namedFiles are the files of the sender's own server that an event names and that are to be asked for. Others' are not: a sender could so learn, from
// their servers, that the event arrived, and at whom.
func namedFiles(raw []byte, most int64) (out []media.Remote) {
	type info struct {
		Size      float64 `json:"size"`
		Thumbnail string  `json:"thumbnail_url"`
	}
	var ev struct {
		Type    string          `json:"type"`
		Sender  matrix.UserID   `json:"sender"`
		Content json.RawMessage `json:"content"`
	}
	var content struct {
		Type   string `json:"msgtype"`
		URL    string `json:"url"`
		Avatar string `json:"avatar_url"`
		Info   info   `json:"info"`
	}
	if json.Unmarshal(raw, &ev) != nil || json.Unmarshal(ev.Content, &content) != nil {
		return nil
	}
	add := func(uri string, small bool) {
		server, id, _ := strings.Cut(strings.TrimPrefix(uri, "mxc://"), "/")
		if _, ok := media.DecodeID(id); ok && strings.HasPrefix(uri, "mxc://") && server == ev.Sender.Homeserver() {
			out = append(out, media.Remote{Server: matrix.ServerName(server), ID: id, Small: small})
		}
	}
	switch ev.Type {
	case "m.room.message", "m.sticker":
		if ev.Type == "m.room.message" && !slices.Contains([]string{"m.image", "m.file", "m.audio", "m.video"}, content.Type) {
			return nil
		}
		add(content.Info.Thumbnail, false)
		if ev.Type == "m.sticker" || content.Type == "m.image" {
			add(content.URL, true)
		}
		if content.Info.Size <= float64(most) {
			add(content.URL, false)
		}
	case "m.room.avatar":
		add(content.URL, true)
	case "m.room.member":
		add(content.Avatar, true)
	}
	return out
}
