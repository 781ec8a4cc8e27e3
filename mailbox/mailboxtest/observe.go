// SPDX-License-Identifier: Apache-2.0

package mailboxtest

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"tarn/crypto/sealed"
	"tarn/mailbox"
)

// Seen is one thing that a mailbox's operator sees who writes everything down: a request to his store, or a frame to his
// courier. He has the keys; the mailbox's own code does not know that it is watched.
type Seen struct {
	At      time.Time // when it was sent
	Conn    int       // which connection it came on: a number for each
	Put     bool      // of a half: which
	Request *mailbox.Request
	Frame   *mailbox.UpFrame // the boxes of its halves are only sizes to him
}

// Observe begins to write down what comes on connections that are made from now on and those that are there; what it gives
// is all so far.
func (m *Mailbox) Observe() func() []Seen {
	m.mu.Lock()
	from := len(m.seen)
	m.observed = true
	m.mu.Unlock()
	return func() []Seen {
		m.mu.Lock()
		defer m.mu.Unlock()
		return slices.Clone(m.seen[from:])
	}
}

// note writes down, while somebody observes.
func (m *Mailbox) note(s Seen) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.observed {
		m.seen = append(m.seen, s)
	}
}

// spy reads one connection along, with the mailbox's keys.
type spy struct {
	m    *Mailbox
	conn int

	mu     sync.Mutex // guards the rest
	up     []byte     // what was not understood yet
	down   []byte     // the first DownSize bytes
	header *mailbox.Header
	reply  *sealed.Reply    // of a hello
	layout mailbox.Layout   // of its session's frames
	frames *mailbox.Channel // of a session
}

func (s *spy) sent(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up = append(s.up, b...)
	for s.understand() {
	}
}

func (s *spy) came(b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := mailbox.DownSize - len(s.down); n > 0 {
		s.down = append(s.down, b[:min(n, len(b))]...)
	}
}

// understand takes the next thing off what was sent; false: it is not whole yet, or nothing to understand.
func (s *spy) understand() bool {
	if s.header == nil {
		if len(s.up) < mailbox.UpSize {
			return false
		}
		s.first((*[mailbox.UpSize]byte)(s.up))
		s.up = s.up[mailbox.UpSize:]
		return true
	}
	switch s.header.Kind {
	case mailbox.KindLink:
		r := bytes.NewReader(s.up)
		msg, err := mailbox.ReadLinkMessage(r, false)
		if err != nil {
			return false
		}
		s.up = s.up[len(s.up)-r.Len():]
		if k := s.m.keys.Get(msg.Epoch); k != nil {
			if req, _, err := mailbox.OpenHalf(msg.Data, k, mailbox.RequestInfo(s.m.keys.Onion(), msg.Epoch)); err == nil {
				s.m.note(Seen{At: time.Now(), Conn: s.conn, Put: mailbox.IsPut(len(msg.Data)), Request: &req})
			}
		}
		return true
	case mailbox.KindSession:
		if s.reply == nil || len(s.up) < s.layout.Up {
			return false
		}
		if s.frames == nil {
			salt, _, err := mailbox.OpenWelcome((*[mailbox.DownSize]byte)(s.down), s.reply)
			if err != nil {
				return false
			}
			s.frames, _ = mailbox.SessionChannels(s.layout, s.reply, salt)
		}
		f, err := s.frames.OpenUpFrame(slices.Clone(s.up[:s.layout.Up]))
		s.up = s.up[s.layout.Up:]
		if err != nil {
			return false
		}
		s.m.note(Seen{At: time.Now(), Conn: s.conn, Frame: &f})
		return true
	}
	return false
}

// first is how every connection begins.
func (s *spy) first(up *[mailbox.UpSize]byte) {
	s.header = &mailbox.Header{}
	h, err := mailbox.ParseHeader(up)
	if err != nil {
		return
	}
	s.header = &h
	k := s.m.keys.Get(h.Epoch)
	if k == nil {
		return
	}
	switch h.Kind {
	case mailbox.KindSealed:
		if r, _, err := mailbox.OpenRequest(up, k, mailbox.RequestInfo(s.m.keys.Onion(), h.Epoch)); err == nil {
			put := r.Op == mailbox.OpPut || r.Op == mailbox.OpRegister || r.Op == mailbox.OpIssue
			s.m.note(Seen{At: time.Now(), Conn: s.conn, Put: put, Request: &r})
		}
	case mailbox.KindSession:
		hello, reply, err := mailbox.OpenHello(up, k, mailbox.SessionInfo(s.m.keys.Onion(), h.Epoch))
		if layout, ok := mailbox.LayoutOf(hello.Geometry); ok && err == nil {
			s.reply, s.layout = reply, layout
		}
	}
}
