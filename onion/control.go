// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"time"

	"github.com/cretz/bine/control"
)

// commandTimeout bounds a control command. tor answers in milliseconds; a machine that swaps takes seconds.
const commandTimeout = 30 * time.Second

// link is an authenticated pair of control connections to one tor: one for commands, one for events. bine's Conn
// does the authentication and the framing; it deadlocks on concurrent commands, so a mutex lets one in at a time.
type link struct {
	mu  sync.Mutex // a command and its reply
	nc  net.Conn
	ctl *control.Conn

	events net.Conn
	evCtl  *control.Conn

	once  sync.Once
	dead  chan struct{}  // closed when the link is of no more use
	quiet sync.WaitGroup // until the last event has been handled
}

// openLink connects twice through dial and authenticates.
func openLink(dial func() (net.Conn, error), password string) (*link, error) {
	l := &link{dead: make(chan struct{})}
	var err error
	if l.nc, l.ctl, err = openControl(dial, password); err != nil {
		return nil, err
	}
	if l.events, l.evCtl, err = openControl(dial, password); err != nil {
		l.nc.Close()
		return nil, err
	}
	return l, nil
}

func openControl(dial func() (net.Conn, error), password string) (net.Conn, *control.Conn, error) {
	nc, err := dial()
	if err != nil {
		return nil, nil, err
	}
	nc.SetDeadline(time.Now().Add(commandTimeout))
	ctl := control.NewConn(textproto.NewConn(nc))
	if err := ctl.Authenticate(password); err != nil {
		nc.Close()
		return nil, nil, fmt.Errorf("authenticate to tor: %w", err)
	}
	nc.SetDeadline(time.Time{})
	return nc, ctl, nil
}

// listen subscribes to tor's events and hands each to handle, in one goroutine that ends with the link.
func (l *link) listen(names string, handle func(event)) error {
	l.events.SetDeadline(time.Now().Add(commandTimeout))
	if _, err := l.evCtl.SendRequest("%s", "SETEVENTS "+names); err != nil {
		return fmt.Errorf("subscribe to tor's events: %w", err)
	}
	l.events.SetDeadline(time.Time{})
	l.quiet.Go(func() {
		for {
			r, err := l.evCtl.ReadResponse()
			if errors.Is(err, net.ErrClosed) {
				return // by us
			}
			if err != nil {
				l.close()
				return
			}
			if r.IsAsync() {
				handle(splitEvent(r.Reply))
			}
		}
	})
	return nil
}

// cmd sends one command and returns its reply lines. An I/O error ends the link: the order of replies is lost.
func (l *link) cmd(line string) ([]string, error) {
	if strings.ContainsAny(line, "\r\n\x00") {
		return nil, errors.New("line break in a control command")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nc.SetDeadline(time.Now().Add(commandTimeout))
	r, err := l.ctl.SendRequest("%s", line) // %s: the line is a format to bine
	if r == nil {
		l.close()
		return nil, err
	}
	if r.Err.Code/10 == 25 { // 252 too, which bine takes for an error
		return r.DataWithReply(), nil
	}
	return nil, err
}

// getInfo is the value of one GETINFO key.
func (l *link) getInfo(key string) (string, error) {
	lines, err := l.cmd("GETINFO " + key)
	if err != nil {
		return "", err
	}
	for _, s := range lines {
		if v, ok := strings.CutPrefix(s, key+"="); ok {
			return strings.TrimPrefix(v, "\r\n"), nil
		}
	}
	return "", fmt.Errorf("tor does not tell %s", key)
}

// close ends both connections; a managed tor that we own ends then too.
func (l *link) close() {
	l.once.Do(func() {
		close(l.dead)
		l.nc.Close()
		l.events.Close()
	})
}

// isCode says whether err is tor's refusal of a command with this status code.
func isCode(err error, code int) bool {
	var te *textproto.Error
	return errors.As(err, &te) && te.Code == code
}
