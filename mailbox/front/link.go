// SPDX-License-Identifier: Apache-2.0

package front

import (
	"bufio"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"tarn/crypto/sealed"
	"tarn/mailbox"
)

// Bounds of links.
const (
	linkFlight  = 64               // requests of one link that are not answered yet
	linkWork    = 128              // requests of all links that are worked on at once
	linkIdle    = 30 * time.Minute // a link that brings nothing for so long is ended
	linkWindow  = time.Minute      // in which it is counted what a link brings
	linkGrace   = linkWindow       // a newcomer that has brought something keeps its place for so long
	linkTimeout = time.Minute      // for writing one answer
)

// links bounds the links, and what is worked on for them.
//
// When all places are taken, a newcomer gets that of the link which has brought least in the last minute or two, by lot among
// equals: what counts are halves that could be opened, for bytes of the right length cost nothing. A courier dials when it has
// a half to hand over, so an honest newcomer has brought one within moments; then it keeps its place for a minute at least. Who
// will keep all places from others must bring as much on each link as those whom he shuts out, or open so many anew each minute.
type links struct {
	most    int
	working chan struct{} // places of requests that are worked on
	opening chan struct{} // places of what is being opened or peeled, also for the courier's own sessions

	mu  sync.Mutex // guards all
	all map[*link]struct{}
}

// link is the connection of a courier.
type link struct {
	began time.Time

	// Guarded by links.mu.
	conn        net.Conn  // nil until the welcome is out
	lost        bool      // another has its place
	since       time.Time // when the window began
	now, before int       // halves that were opened in it, and in the one before
}

// brought is how many halves came that could be opened, since two windows ago at most; links.mu is held.
func (l *link) brought(now time.Time) int {
	switch gone := now.Sub(l.since); {
	case gone >= 2*linkWindow:
		l.since, l.now, l.before = now, 0, 0
	case gone >= linkWindow:
		l.since, l.now, l.before = l.since.Add(linkWindow), 0, l.now
	}
	return l.now + l.before
}

func newLinks(most int) links {
	return links{most: most, working: make(chan struct{}, linkWork), opening: make(chan struct{}, openingPlaces()), all: map[*link]struct{}{}}
}

// enter gives a newcomer a place, if need be that of another; nil: there is none.
func (k *links) enter(now time.Time) *link {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.all) >= k.most {
		var least *link
		brought, n := 0, 0
		for l := range k.all {
			b := l.brought(now)
			switch {
			case b > 0 && now.Sub(l.began) < linkGrace:
			case least == nil || b < brought:
				least, brought, n = l, b, 1
			case b == brought:
				if n++; rand.IntN(n) == 0 {
					least = l
				}
			}
		}
		if least == nil {
			return nil
		}
		least.lost = true
		if least.conn != nil {
			least.conn.Close()
		}
		delete(k.all, least)
	}
	l := &link{began: now, since: now}
	k.all[l] = struct{}{}
	return l
}

// open runs fn when it has its turn among what is opened for links.
func (k *links) open(fn func()) {
	k.opening <- struct{}{}
	defer func() { <-k.opening }()
	fn()
}

func (k *links) leave(l *link) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.all, l)
}

// opened notes that the link brought a half that could be opened.
func (k *links) opened(l *link) {
	k.mu.Lock()
	defer k.mu.Unlock()
	l.brought(time.Now())
	l.now++
}

// welcomeLink answers a courier that wants to hand over requests: with the descriptor, which it needs anyway.
func (s *Server) welcomeLink(b *buffers) (goOn func(net.Conn)) {
	l := s.links.enter(time.Now())
	if l == nil {
		mailbox.ClearAnswer(&b.down, mailbox.ClearBusy, nil)
		return nil
	}
	mailbox.ClearAnswer(&b.down, mailbox.ClearDescriptor, s.cfg.Keys.Descriptor())
	return func(c net.Conn) {
		defer s.links.leave(l)
		s.serveLink(l, c)
	}
}

// serveLink answers what comes, each request at the time of answers after it came, until the link breaks.
// Requests are worked on side by side: one that waits for the disk does not hold up the others.
func (s *Server) serveLink(l *link, c net.Conn) {
	s.links.mu.Lock()
	if l.conn = c; l.lost {
		c.Close()
	}
	s.links.mu.Unlock()
	var (
		wg      sync.WaitGroup
		flight  = make(chan struct{}, linkFlight)
		writing sync.Mutex // one answer at a time
	)
	defer wg.Wait()
	defer c.Close()
	write := func(m mailbox.LinkMessage, answer []byte) {
		out := mailbox.AppendLinkMessage(nil, mailbox.LinkMessage{Kind: m.Kind.Answer(), Tag: m.Tag, Data: answer})
		writing.Lock()
		defer writing.Unlock()
		c.SetWriteDeadline(time.Now().Add(linkTimeout))
		if _, err := c.Write(out); err != nil {
			c.Close() // half an answer may be out: nothing can follow it
		}
	}
	var carry func(epoch uint32, box []byte, answer func([]byte))
	if s.cfg.Courier != nil {
		carry = s.cfg.Courier.Carry(func(open func() bool) {
			var ok bool
			if s.links.open(func() { ok = open() }); ok {
				s.links.opened(l)
			}
		})
	}
	r := bufio.NewReaderSize(c, mailbox.MaxLinkMessage)
	for {
		c.SetReadDeadline(time.Now().Add(linkIdle))
		m, err := mailbox.ReadLinkMessage(r, false)
		if err != nil {
			return
		}
		came := time.Now()
		if _, layers, _ := mailbox.HalfShape(len(m.Data)); layers > 0 {
			if carry == nil {
				write(m, mailbox.RefuseHalf(len(m.Data), mailbox.ClearRefused))
			} else {
				carry(m.Epoch, m.Data, func(answer []byte) { write(m, answer) })
			}
			continue
		}
		flight <- struct{}{} // no more than that: the courier waits
		wg.Go(func() {
			defer func() { <-flight }()
			s.links.working <- struct{}{}
			answer, op := s.half(m.Epoch, m.Data, nil)
			<-s.links.working
			if mailbox.Clear(answer[0]) == mailbox.ClearSealed {
				s.links.opened(l)
			}
			time.Sleep(s.pace.wait(came, op))
			write(m, answer)
		})
	}
}

// Half is the answer, as it travels, to a half that is sealed to the key of that epoch. describe finds the descriptor of
// another mailbox, for who asked for it; nil: only this one's own is given. Safe for concurrent use; it may take its time.
func (s *Server) Half(epoch uint32, box []byte, describe func(onion [32]byte) ([]byte, error)) []byte {
	answer, _ := s.half(epoch, box, describe)
	return answer
}

// half is Half, and says what was asked for; 0: nothing was opened.
func (s *Server) half(epoch uint32, box []byte, describe func(onion [32]byte) ([]byte, error)) (answer []byte, op mailbox.Op) {
	put := mailbox.IsPut(len(box))
	key := s.cfg.Keys.Get(epoch)
	if key == nil {
		return mailbox.RefuseHalf(len(box), mailbox.ClearStale), 0
	}
	var r mailbox.Request
	var reply *sealed.Reply
	var err error
	s.links.open(func() { r, reply, err = mailbox.OpenHalf(box, key, mailbox.RequestInfo(s.cfg.Keys.Onion(), epoch)) })
	switch {
	case reply == nil:
		return mailbox.RefuseHalf(len(box), mailbox.ClearRefused), 0
	case err != nil:
		return mailbox.SealHalfAnswer(put, reply, mailbox.StatusRefused, nil), 0
	case r.Op == mailbox.OpNothing:
		return mailbox.SealHalfAnswer(put, reply, mailbox.StatusOK, nil), r.Op
	case r.Op == mailbox.OpDescriptor:
		status, d := s.describe(r.Onion, describe)
		return mailbox.SealHalfAnswer(put, reply, status, d), r.Op
	}
	b := s.buffers.Get().(*buffers)
	defer s.buffers.Put(b)
	status, body := s.do(r, nil, &b.box)
	return mailbox.SealHalfAnswer(put, reply, status, body), r.Op
}

// describe is the descriptor of that mailbox: this one's own, or what others know.
func (s *Server) describe(onion [32]byte, others func(onion [32]byte) ([]byte, error)) (mailbox.Status, []byte) {
	if string(onion[:]) == string(s.cfg.Keys.Onion()) {
		return mailbox.StatusOK, s.cfg.Keys.Descriptor()
	}
	if others == nil {
		return mailbox.StatusRefused, nil
	}
	d, err := others(onion)
	if err != nil {
		return mailbox.StatusUnreachable, nil
	}
	return mailbox.StatusOK, d
}
