// SPDX-License-Identifier: Apache-2.0

package media

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn/matrix"
	"tarn/store"
)

// PartSize is how many bytes of a file cross at a time (SPEC §8.14).
const PartSize = 2660

// Bounds of the files that are asked for.
const (
	maxComing   = 500                // rows of one server, failed ones included
	atOnce      = 8                  // files of one server that are on their way; the others wait
	giveUpAfter = 8                  // questions without any progress
	retryFailed = time.Hour          // a client that asks for what failed so long ago makes it be asked for again
	keepFailed  = 7 * 24 * time.Hour // why something failed
)

// Why a file does not come.
const (
	failedNone   = "none"   // its server has it not, or does not give it to us
	failedLarge  = "large"  // larger than Options.RemoteMax
	failedSpace  = "space"  // a quota
	failedHash   = "hash"   // what came was, twice, not what was described
	failedSilent = "silent" // no answer
)

// Remote names a file of another server.
type Remote struct {
	Server matrix.ServerName
	ID     string
	Small  bool // a thumbnail, as its server makes it
}

// small is what stands behind the name of a thumbnail.
const small = "/thumbnail"

// name is an id, with what tells a thumbnail.
func name(id string, isSmall bool) string {
	if isSmall {
		return id + small
	}
	return id
}

func (r Remote) name() string { return name(r.ID, r.Small) }

// key is under which the whole file has its row.
func (r Remote) key() string { return string(r.Server) + "/" + r.name() }

// topic is what a client waits for: the file or its thumbnail.
func (r Remote) topic() string { return string(r.Server) + "/" + r.ID }

func (r Remote) valid() bool {
	return r.Server != "" && len(r.Server) <= 255 && !strings.Contains(string(r.Server), "/") && validID(r.ID)
}

// parseRemote reads a key; false: it is none.
func parseRemote(key string) (r Remote, ok bool) {
	key, r.Small = strings.CutSuffix(key, small)
	server, id, _ := strings.Cut(key, "/")
	r.Server, r.ID = matrix.ServerName(server), id
	return r, r.valid()
}

// comingRow is a file that is asked for.
type comingRow struct {
	Since int64  `json:"since"`           // Unix milliseconds, as all times here
	Due   int64  `json:"due"`             // it is asked for (again)
	Wait  int64  `json:"wait,omitempty"`  // after so many milliseconds without progress, then doubled
	Tries int    `json:"tries,omitempty"` // questions since the last progress
	Again bool   `json:"again,omitempty"` // what came once was not what was described
	Hash  string `json:"hash,omitempty"`  // as described; "": not yet
	Size  int64  `json:"size,omitempty"`
	Type  string `json:"type,omitempty"`
	Name  string `json:"name,omitempty"`

	Failed string `json:"failed,omitempty"`
	Ended  int64  `json:"ended,omitempty"` // when it failed
}

// parts is how many parts so many bytes have.
func parts(size int64) uint64 { return uint64((size + PartSize - 1) / PartSize) }

// coming is one of them in memory.
type coming struct {
	Remote
	comingRow
	have []uint64 // bits: the parts that are here
	got  uint64

	stirred time.Time // when something of it came, or was asked
}

// moves tells whether a file is coming just now.
func (c *coming) moves(now time.Time) bool {
	return !c.Small && c.Failed == "" && c.Wait > 0 && now.Sub(c.stirred) < time.Duration(c.Wait)*time.Millisecond/8
}

func (c *coming) has(part uint64) bool {
	return part/64 < uint64(len(c.have)) && c.have[part/64]>>(part%64)&1 == 1
}

func (c *coming) mark(part uint64) {
	for uint64(len(c.have)) <= part/64 {
		c.have = append(c.have, 0)
	}
	if !c.has(part) {
		c.have[part/64] |= 1 << (part % 64)
		c.got++
	}
}

// missing is the first run of parts that are not here: from, and the part behind it, 0 if that is the file's end.
func (c *coming) missing() (from, to uint64) {
	for c.has(from) {
		from++
	}
	for to = from; to < uint64(len(c.have))*64; to++ {
		if c.has(to) {
			return from, to
		}
	}
	return from, 0
}

// remote is what is between servers, in memory as on the disk.
type remote struct {
	// mu is held over an Update, never in one, and never while a file is put together.
	mu     sync.Mutex
	coming map[matrix.ServerName]map[string]*coming
	going  map[matrix.ServerName]map[string]*going
}

func comingKey(r Remote) []byte { return store.Key(tableComing, string(r.Server), r.name()) }
func partsKey(r Remote) []byte  { return store.Key(tablePart, string(r.Server), r.name()) }

// loadRemote reads the rows. Parts of what is not asked for any more go: a crash left them.
func (s *Store) loadRemote() error {
	s.remote.coming, s.remote.going = map[matrix.ServerName]map[string]*coming{}, map[matrix.ServerName]map[string]*going{}
	left := map[Remote]bool{}
	err := s.kv.View(func(rd store.Reader) error {
		read := func(k []byte) (Remote, *store.KeyReader, error) {
			key := store.ReadKey(k)
			server, what := key.String(), key.String()
			r, ok := parseRemote(server + "/" + what)
			if !ok {
				return r, nil, errRow
			}
			return r, key, nil // whoever reads the rest sees whether it was one
		}
		err := rd.Scan(store.Key(tableComing), nil, func(k, v []byte) (bool, error) {
			r, _, err := read(k)
			c := &coming{Remote: r}
			if err = errors.Join(err, json.Unmarshal(v, &c.comingRow)); err == nil {
				s.remember(c)
			}
			return true, err
		})
		if err != nil {
			return err
		}
		if err := rd.Scan(store.Key(tablePart), nil, func(k, _ []byte) (bool, error) {
			r, key, err := read(k)
			if err != nil {
				return false, err
			}
			part := key.Uint64()
			if c := s.remote.coming[r.Server][r.name()]; c != nil && c.Failed == "" && part < parts(s.opt.RemoteMax) {
				c.mark(part)
			} else {
				left[r] = true
			}
			return true, key.Err()
		}); err != nil {
			return err
		}
		return rd.Scan(store.Key(tableGoing), nil, func(k, v []byte) (bool, error) {
			r, _, err := read(k)
			g := &going{Remote: r}
			if err = errors.Join(err, json.Unmarshal(v, &g.goingRow)); err != nil {
				return false, err
			}
			if m, err := load(rd, g.ID); err == nil && m.Hash == "" {
				g.waits = time.UnixMilli(m.Expires)
			}
			s.rememberGoing(g)
			return true, nil
		})
	})
	for r := range left {
		if c := s.remote.coming[r.Server][r.name()]; c != nil && c.Failed == "" {
			c.have, c.got = nil, 0 // a limit was made smaller: it is asked for again, and fails for that
		}
		err = errors.Join(err, s.eraseParts(r))
	}
	return err
}

func (s *Store) remember(c *coming) {
	m := s.remote.coming[c.Server]
	if m == nil {
		m = map[string]*coming{}
		s.remote.coming[c.Server] = m
	}
	m[c.name()] = c
}

// eraseParts deletes what came of a file, a few parts at a time.
func (s *Store) eraseParts(r Remote) error {
	for {
		n := 0
		err := s.kv.Update(func(txn store.Txn) error {
			n = 0
			return txn.Scan(partsKey(r), nil, func(k, _ []byte) (bool, error) {
				n++
				return n < 500, txn.Delete(slices.Clone(k))
			})
		})
		if err != nil || n == 0 {
			return err
		}
	}
}

// saveComing writes the row. The caller holds remote.mu.
func (s *Store) saveComing(c *coming) error {
	raw, err := json.Marshal(c.comingRow)
	if err != nil {
		return err
	}
	return s.kv.Update(func(txn store.Txn) error { return txn.Set(comingKey(c.Remote), raw) })
}

// Want notes, durably, that a file of another server is to be asked for, if it is not here and was not asked for before. again: what failed a
// while ago is tried anew. ErrPending if too much is asked of that server already.
func (s *Store) Want(r Remote, again bool) error {
	if !r.valid() {
		return ErrNotFound
	}
	if _, err := s.row(r.key()); !errors.Is(err, ErrNotFound) {
		return err
	}
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	return s.want(r, again, time.Now())
}

func (s *Store) want(r Remote, again bool, now time.Time) error {
	all := s.remote.coming[r.Server]
	if c := all[r.name()]; c != nil && (c.Failed == "" || !again || now.Sub(time.UnixMilli(c.Ended)) < retryFailed) {
		return nil
	}
	if len(all) >= maxComing && all[r.name()] == nil {
		var oldest *coming
		for _, c := range all {
			if c.Failed != "" && (oldest == nil || c.Ended < oldest.Ended) {
				oldest = c
			}
		}
		if oldest == nil {
			return ErrPending
		}
		if err := s.forgetComing(oldest); err != nil {
			return err
		}
	}
	c := &coming{Remote: r, comingRow: comingRow{Since: now.UnixMilli(), Due: now.UnixMilli()}}
	if err := s.saveComing(c); err != nil {
		return err
	}
	s.remember(c)
	return nil
}

func (s *Store) forgetComing(c *coming) error {
	err := s.kv.Update(func(txn store.Txn) error { return txn.Delete(comingKey(c.Remote)) })
	if err != nil {
		return err
	}
	delete(s.remote.coming[c.Server], c.name())
	return s.eraseParts(c.Remote)
}

// Ask is what is to be asked of another server: the parts from From up to, not with, To (0: to the end).
type Ask struct {
	Remote
	From, To uint64
}

// Asks are the questions to a server that are due, thumbnails first, then the oldest; at most n. Only of one server files come at a time, beside thumbnails:
// of several together they would come faster than this node reads, and messages would wait behind them. It reads no disk.
func (s *Store) Asks(server matrix.ServerName, now time.Time, n int) (out []Ask) {
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	var due []*coming
	busy := 0
	for other, all := range s.remote.coming {
		for _, c := range all {
			if other != server && c.moves(now) {
				busy = atOnce
			}
		}
	}
	for _, c := range s.remote.coming[server] {
		switch {
		case c.Failed != "", c.Tries >= giveUpAfter:
		case !time.UnixMilli(c.Due).After(now):
			due = append(due, c)
		case !c.Small:
			busy++
		}
	}
	slices.SortFunc(due, func(a, b *coming) int {
		if a.Small != b.Small {
			if a.Small {
				return -1
			}
			return 1
		}
		return int(a.Since - b.Since)
	})
	for _, c := range due {
		if !c.Small {
			if busy >= atOnce {
				continue
			}
			busy++
		}
		if len(out) < n {
			from, to := c.missing()
			out = append(out, Ask{c.Remote, from, to})
		}
	}
	return out
}

// RemoteMax is the greatest file that is taken from another server, in bytes.
func (s *Store) RemoteMax() int64 { return s.opt.RemoteMax }

// Asked notes that questions left, each of which is not asked again for wait, if something comes, else for wait doubled with each time. One that was asked
// in vain too often is given up by Expire.
func (s *Store) Asked(asks []Ask, wait time.Duration) error {
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	now := time.Now()
	for _, a := range asks {
		c := s.remote.coming[a.Server][a.name()]
		if c == nil || c.Failed != "" {
			continue
		}
		c.Wait = wait.Milliseconds()
		c.Due = now.UnixMilli() + c.Wait<<c.Tries
		c.Tries++
		c.stirred = now
		if err := s.saveComing(c); err != nil {
			return err
		}
	}
	return nil
}

// fail ends what is asked for, and says why to who waits. The caller holds remote.mu.
func (s *Store) fail(c *coming, why string, now time.Time) error {
	c.Failed, c.Ended = why, now.UnixMilli()
	c.have, c.got = nil, 0
	if err := s.saveComing(c); err != nil {
		return err
	}
	defer s.wake(c.topic(), nil)
	if c.Small { // then it is the file itself or nothing
		return errors.Join(s.eraseParts(c.Remote), s.want(Remote{Server: c.Server, ID: c.ID}, false, now))
	}
	return s.eraseParts(c.Remote)
}

// Description is what the server of a file says that it is.
type Description struct {
	Hash []byte // SHA-256; nil: we do not get it
	Size int64
	Meta
}

// Describe takes what a server says of a file that it was asked for. ErrUnasked if it was not, or if the server said something else before.
func (s *Store) Describe(r Remote, d Description) error {
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	c, now := s.remote.coming[r.Server][r.name()], time.Now()
	switch {
	case c == nil, c.Failed != "", d.Size < 0, c.Hash != "" && (c.Hash != hex.EncodeToString(d.Hash) || c.Size != d.Size):
		return ErrUnasked
	case len(d.Hash) == 0:
		return s.fail(c, failedNone, now)
	}
	c.Hash, c.Size, c.Type, c.Name = hex.EncodeToString(d.Hash), d.Size, CleanType(d.Type), CleanName(d.Name)
	if d.Size > s.opt.RemoteMax {
		return s.fail(c, failedLarge, now)
	}
	used, of := int64(0), int64(0)
	if err := s.kv.View(func(rd store.Reader) (err error) {
		if used, err = total(rd); err == nil {
			of, err = serverTotal(rd, r.Server)
		}
		return err
	}); err != nil {
		return err
	}
	if used+d.Size > s.opt.Quota || of+d.Size > s.opt.RemoteQuota {
		return s.fail(c, failedSpace, now)
	}
	c.progress(now)
	if err := s.saveComing(c); err != nil {
		return err
	}
	return s.maybeFinish(c)
}

// progress moves the next question.
func (c *coming) progress(now time.Time) {
	c.stirred = now
	c.Tries, c.Due = 0, now.UnixMilli()+c.Wait
}

// AddPart takes one part of a file that was asked for, in any order, once or twice; with the last one the file is put together. ErrUnasked if it
// is no part that was asked for.
func (s *Store) AddPart(r Remote, part uint64, b []byte) error {
	s.remote.mu.Lock()
	defer s.remote.mu.Unlock()
	c := s.remote.coming[r.Server][r.name()]
	if c == nil || c.Failed != "" || c.Tries == 0 && c.Wait == 0 || len(b) == 0 || len(b) > PartSize {
		return ErrUnasked
	}
	size := s.opt.RemoteMax
	if c.Hash != "" {
		size = c.Size
	}
	if n := parts(size); part >= n || c.Hash != "" && int64(len(b)) != min(PartSize, size-int64(part)*PartSize) {
		return ErrUnasked
	}
	if !c.has(part) {
		err := s.kv.Update(func(txn store.Txn) error {
			return txn.Set(store.Key(tablePart, string(r.Server), r.name(), part), b)
		})
		if err != nil {
			return err
		}
		c.mark(part)
		c.progress(time.Now()) // kept on disk with the next change: after a restart it may be asked for early, which is harmless
	}
	return s.maybeFinish(c)
}
