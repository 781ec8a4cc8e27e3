// SPDX-License-Identifier: Apache-2.0

package media

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// Bounds of what one server asks for.
const (
	maxGoing    = 32       // files that are being given to it
	maxAnswered = 64       // rows, with those that were given
	smallEnough = 32 << 10 // bytes of a picture for which no thumbnail is made: itself is hardly longer
	maxSmall    = 256 << 10
	smallWidth  = 320 // pixels of the thumbnail that is made for others
	smallHeight = 240
)

// goingRow is a file of ours that another server, the row's, asked for.
type goingRow struct {
	Since     int64  `json:"since"` // Unix milliseconds
	Next      uint64 `json:"next"`  // the part that goes next
	To        uint64 `json:"to,omitempty"`
	Max       int64  `json:"max,omitempty"`
	Described bool   `json:"described,omitempty"`
	None      bool   `json:"none,omitempty"`  // it does not get it
	Thumb     string `json:"thumb,omitempty"` // the name of the thumbnail that was made
	Done      int64  `json:"done,omitempty"`  // when the last part left
}

type going struct {
	Remote // Server asks, of our file
	goingRow
	waits time.Time // the file is not uploaded yet: until then
	left  uint64    // parts, as far as known
}

func goingKey(r Remote) []byte { return store.Key(tableGoing, string(r.Server), r.name()) }

func (s *Store) rememberGoing(g *going) {
	m := s.remote.going[g.Server]
	if m == nil {
		m = map[string]*going{}
		s.remote.going[g.Server] = m
	}
	m[g.name()] = g
}

func (s *Store) saveGoing(g *going) error {
	raw, err := json.Marshal(g.goingRow)
	if err != nil {
		return err
	}
	return s.kv.Update(func(txn store.Txn) error { return txn.Set(goingKey(g.Remote), raw) })
}

// Give notes, durably, that r.Server asked for a file of ours: for its parts from ask.From up to ask.To, and for its description alone if it
// has more than most bytes. may tells whether that server may have files of a user. Who asks again for what is being given, or was within pause, is
// not listened to. ErrPending if it asks for too much. A thumbnail is made here, so this may take a second.
func (s *Store) Give(ctx context.Context, ask Ask, most int64, pause time.Duration, may func(matrix.UserID) bool) error {
	if !ask.valid() {
		return ErrNotFound
	}
	now := time.Now()
	g := &going{Remote: ask.Remote, goingRow: goingRow{Since: now.UnixMilli(), Next: ask.From, To: ask.To, Max: most}}
	m, err := s.row(g.ID)
	switch {
	case errors.Is(err, ErrNotFound):
		g.None = true
	case err != nil:
		return err
	case !may(m.User):
		g.None = true
	case m.Hash == "":
		g.waits = time.UnixMilli(m.Expires)
	case g.Small:
		if g.Thumb, err = s.prepare(ctx, g.ID, m); err != nil {
			return err
		}
	}
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	all := s.remote.going[g.Server]
	if o := all[g.name()]; o != nil && (o.Done == 0 || now.Sub(time.UnixMilli(o.Done)) < pause) {
		return nil
	}
	active := 0
	var oldest *going
	for _, o := range all {
		if o.Done == 0 {
			active++
		} else if oldest == nil || o.Done < oldest.Done {
			oldest = o
		}
	}
	if active >= maxGoing {
		return ErrPending
	}
	if len(all) >= maxAnswered && all[g.name()] == nil && oldest != nil {
		if err := s.kv.Update(func(txn store.Txn) error { return txn.Delete(goingKey(oldest.Remote)) }); err != nil {
			return err
		}
		delete(all, oldest.name())
	}
	if err := s.saveGoing(g); err != nil {
		return err
	}
	s.rememberGoing(g)
	return nil
}

// prepare makes the thumbnail that others get, if there is to be one, and gives its name.
func (s *Store) prepare(ctx context.Context, id string, m row) (string, error) {
	if m.Size <= smallEnough {
		return "", nil
	}
	f, err := s.get(id)
	if err != nil {
		return "", err
	}
	t, err := s.Thumbnail(ctx, f, smallWidth, smallHeight, false, false)
	if errors.Is(err, ErrNoThumbnail) || errors.Is(err, ErrHuge) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer t.Close()
	if t.Hash == m.Hash {
		return "", nil // the file itself is small enough
	}
	return t.Hash, nil
}

// uploaded lets those have a file who asked for it before it was there.
func (s *Store) uploaded(id string) {
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	for _, all := range s.remote.going {
		for _, g := range all {
			if g.ID == id {
				g.waits = time.Time{}
			}
		}
	}
}

// next is what goes next to a server: what has the least left, thumbnails before all. The caller holds remote.mu.
func (s *Store) next(server matrix.ServerName, now time.Time, not map[string]bool) (best *going) {
	for _, g := range s.remote.going[server] {
		if g.Done != 0 || not[g.name()] || now.Before(g.waits) {
			continue
		}
		if best == nil || g.before(best) {
			best = g
		}
	}
	return best
}

func (g *going) before(o *going) bool {
	switch {
	case g.Small != o.Small:
		return g.Small
	case g.left != o.left:
		return g.left < o.left
	case g.Since != o.Since:
		return g.Since < o.Since
	}
	return g.ID < o.ID
}

// Owes tells whether something is to be given to a server. It reads no disk.
func (s *Store) Owes(server matrix.ServerName, now time.Time) bool {
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	return s.next(server, now, nil) != nil
}

// Piece is what goes next to another server: the description, if Describe, and parts.
type Piece struct {
	Remote
	Describe bool
	Description
	First uint64 // the number of
	Parts [][]byte
	next  uint64 // how far it is with the parts that are taken
	end   uint64
}

// Next are the pieces that go next to a server, up to n parts of them. They are read from the disk; nothing changes before Gave.
func (s *Store) Next(server matrix.ServerName, n int) (out []Piece, err error) {
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	not := map[string]bool{}
	for n > 0 {
		g := s.next(server, time.Now(), not)
		if g == nil {
			return out, nil
		}
		not[g.name()] = true
		p, err := s.piece(g, n)
		if err != nil {
			return out, err
		}
		out = append(out, p)
		n -= max(1, len(p.Parts))
	}
	return out, nil
}

// piece reads what goes next of one file.
func (s *Store) piece(g *going, n int) (Piece, error) {
	p := Piece{Remote: g.Remote, Describe: !g.Described, First: g.Next, next: g.Next, end: g.Next}
	f, err := s.give(g)
	if errors.Is(err, ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		p.Describe = true // it was deleted meanwhile, or never was there
		return p, nil
	}
	if err != nil {
		return p, err
	}
	defer f.Close()
	if p.Hash, err = hex.DecodeString(f.Hash); err != nil {
		return p, errRow
	}
	p.Size, p.Meta = f.Size, f.Meta
	if f.Size > g.Max || f.Size > s.opt.RemoteMax {
		return p, nil // the description alone
	}
	if p.end = parts(f.Size); g.To != 0 {
		p.end = min(p.end, g.To)
	}
	g.left = p.end - min(g.Next, p.end)
	for part := g.Next; part < p.end && len(p.Parts) < n; part++ {
		b := make([]byte, min(PartSize, f.Size-int64(part)*PartSize))
		if _, err := f.ReadAt(b, int64(part)*PartSize); err != nil && !errors.Is(err, io.EOF) {
			return p, err
		}
		p.Parts = append(p.Parts, b)
	}
	return p, nil
}

// give opens what is given. ErrNotFound.
func (s *Store) give(g *going) (*File, error) {
	if g.None {
		return nil, ErrNotFound
	}
	f, err := s.get(g.ID)
	if err != nil || !g.Small {
		if errors.Is(err, ErrNotYet) {
			err = ErrNotFound
		}
		return f, err
	}
	f.Close()
	if g.Thumb == "" {
		return nil, ErrNotFound
	}
	t, err := s.cached(g.Thumb)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(t, maxSmall+1))
	if err == nil && (n > maxSmall || n >= f.Size) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	t.Hash = hex.EncodeToString(sum.Sum(nil))
	return t, nil
}

// Gave notes that a piece, with the first taken of its parts, is in a box that is on the disk. A crash before it gives the piece twice, which is harmless.
func (s *Store) Gave(p Piece, taken int) error {
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	g := s.remote.going[p.Server][p.name()]
	if g == nil || g.Next != p.First {
		return nil
	}
	g.Described, g.Next = true, p.First+uint64(taken)
	if g.left -= min(g.left, uint64(taken)); g.Next >= p.end {
		g.Done = time.Now().UnixMilli()
	}
	return s.saveGoing(g)
}

// Transfers is what is on its way between this node and another.
type Transfers struct {
	Coming  int    // files that are asked for
	Here    uint64 // bytes of them that are here, about
	Of      uint64 // bytes of those that are described
	Failed  int    // lately
	Going   int    // files that the other node asked for
	ToGo    uint64 // bytes of those, as far as known
	Problem string // why the newest of the failed ones failed
}

// Transfers tells it, from memory.
func (s *Store) Transfers(server matrix.ServerName) (t Transfers) {
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	newest := int64(0)
	for _, c := range s.remote.coming[server] {
		if c.Failed == "" {
			t.Coming++
			t.Here += c.got * PartSize
			t.Of += uint64(c.Size)
		} else if !c.Small {
			if t.Failed++; c.Ended > newest {
				newest, t.Problem = c.Ended, (&NotComing{Size: c.Size, Max: s.opt.RemoteMax, why: c.Failed}).Error()
			}
		}
	}
	for _, g := range s.remote.going[server] {
		if g.Done == 0 {
			t.Going++
			t.ToGo += g.left * PartSize
		}
	}
	return t
}

// ForgetServer ends what is on its way from and to a server. Files that came stay.
func (s *Store) ForgetServer(server matrix.ServerName) error {
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	for _, c := range s.remote.coming[server] {
		if err := s.forgetComing(c); err != nil {
			return err
		}
		s.wake(c.topic(), nil)
	}
	for _, g := range s.remote.going[server] {
		if err := s.kv.Update(func(txn store.Txn) error { return txn.Delete(goingKey(g.Remote)) }); err != nil {
			return err
		}
	}
	delete(s.remote.coming, server)
	delete(s.remote.going, server)
	return nil
}

// Expire gives up what was asked for in vain too often, and forgets why files failed long ago.
func (s *Store) Expire(now time.Time) error {
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	for _, all := range s.remote.coming {
		for _, c := range all {
			if c.Failed == "" && c.Tries >= giveUpAfter && !now.Before(time.UnixMilli(c.Due)) {
				if err := s.fail(c, failedSilent, now); err != nil {
					return err
				}
			}
			if c.Failed != "" && now.Sub(time.UnixMilli(c.Ended)) > keepFailed {
				if err := s.forgetComing(c); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// DecodeID gives the bytes of an id as it stands in an mxc URI; false: it is none of a node like ours.
func DecodeID(id string) (b [16]byte, ok bool) {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(id)
	if err != nil || len(raw) != len(b) || EncodeID([16]byte(raw)) != id { // line breaks, which the decoder passes over
		return b, false
	}
	return [16]byte(raw), true
}

// EncodeID is its reverse.
func EncodeID(b [16]byte) string { return base64.RawURLEncoding.EncodeToString(b[:]) }
