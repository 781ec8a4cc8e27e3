// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"context"
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"tarn/crypto/onionid"
)

// service is an onion of ours. Tor.mu guards it.
type service struct {
	name    onionid.Name
	key     ed25519.PrivateKey
	config  ListenConfig
	ports   map[int]string // virtual port -> where tor connects to, as ADD_ONION takes it
	version uint64         // of ports, never the same twice in a Tor: what tor has is compared with it

	// what tor has said about the descriptor since the last ADD_ONION
	uploads, uploaded, failures int
	published                   bool
	detail                      string
}

// forget starts anew with a tor that does not know the service.
func (s *service) forget() {
	s.uploads, s.uploaded, s.failures, s.published, s.detail = 0, 0, 0, false, ""
}

// Listen implements [Network]. In managed mode the local end is a unix socket in a 0700 directory; in attach mode a TCP
// port on loopback, since the running tor is another user.
func (t *Tor) Listen(ctx context.Context, key ed25519.PrivateKey, port int, opt ...ListenOption) (net.Listener, error) {
	config, err := NewListenConfig(opt...)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(ctx.Err(), t.cfgErr, CheckListen(key, port)); err != nil {
		return nil, err
	}
	if t.cfg.Mode == Off {
		return nil, ErrOff
	}
	name := onionid.FromKey(key.Public().(ed25519.PublicKey))
	inner, target, free, err := t.listenLocal(ctx)
	if err != nil {
		return nil, err
	}
	l := &listener{Listener: inner, t: t, name: name, port: port, free: free}
	if err := t.addPort(l, key, config, target); err != nil {
		inner.Close()
		free()
		return nil, err
	}
	t.kick()
	return l, nil
}

func (t *Tor) listenLocal(ctx context.Context) (l net.Listener, target string, free func(), err error) {
	var lc net.ListenConfig
	if t.cfg.Mode == Attach {
		if l, err = lc.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
			return nil, "", nil, fmt.Errorf("listen for tor: %w", err)
		}
		return l, l.Addr().String(), func() {}, nil
	}
	dir, err := t.sockets.hold()
	if err != nil {
		return nil, "", nil, err
	}
	path := t.sockets.name(dir)
	if l, err = lc.Listen(ctx, "unix", path); err != nil {
		t.sockets.release()
		return nil, "", nil, fmt.Errorf("listen for tor: %w", err)
	}
	return l, "unix:" + path, t.sockets.release, nil
}

func (t *Tor) addPort(l *listener, key ed25519.PrivateKey, config ListenConfig, target string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.services[l.name]
	if s == nil {
		s = &service{name: l.name, key: slices.Clone(key), config: config, ports: map[int]string{}}
	} else if s.ports[l.port] != "" {
		return ErrInUse
	} else if !s.config.Equal(config) {
		return fmt.Errorf("%w with other options", ErrInUse) // or a port for few would let in all, or the other way round
	} else if len(s.ports) >= maxPorts {
		return fmt.Errorf("%w: a service has at most %d ports", ErrInUse, maxPorts)
	}
	t.services[l.name] = s
	s.ports[l.port] = target
	t.versions++
	s.version = t.versions
	s.published = false
	t.updateLocked(func(*Status) {})
	return nil
}

func (t *Tor) removePort(l *listener) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.services[l.name]
	delete(s.ports, l.port)
	t.versions++
	s.version = t.versions
	if len(s.ports) == 0 {
		delete(t.services, l.name)
	}
	t.updateLocked(func(*Status) {})
}

// kick makes publish look again.
func (t *Tor) kick() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// listener is the local end of one port of a service.
type listener struct {
	net.Listener
	t    *Tor
	name onionid.Name
	port int
	free func() // gives up the directory of the socket

	once sync.Once
}

// Accept implements net.Listener: connections whose local address is the onion's.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return conn{c, Addr(Address(l.name, l.port)), AnonymousClient}, nil
}

// Addr is an [Addr].
func (l *listener) Addr() net.Addr { return Addr(Address(l.name, l.port)) }

// Close ends the port; with the last one tor withdraws the service. The directories forget a descriptor only after
// some hours: till then, dials of others hang.
func (l *listener) Close() error {
	err := net.ErrClosed
	l.once.Do(func() {
		l.t.removePort(l)
		err = l.Listener.Close()
		l.free()
		l.t.kick()
	})
	return err
}

// WaitPublished implements [Network].
func (t *Tor) WaitPublished(ctx context.Context, name onionid.Name) error {
	for {
		changed := t.Changed()
		t.mu.Lock()
		s := t.services[name]
		published := s != nil && s.published
		t.mu.Unlock()
		if s == nil {
			return ErrNoService
		}
		if published {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("publish an onion service: %w", ctx.Err())
		}
	}
}

// onDescriptor counts what becomes of a service's descriptors (control-spec §4.1.25): each version goes to several
// directories, announced by an UPLOAD each. A dial of others may ask any of them, so published is: all have answered,
// and at least one has it.
func (t *Tor) onDescriptor(action, id, reason string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.services[onionid.Name(id+".onion")]
	if s == nil {
		return // one that we look for, or have closed
	}
	switch {
	case action == "UPLOAD":
		s.uploads++
		return
	case s.uploads == 0 || s.published:
		return // an answer to what an earlier version of the service sent, or to a renewal
	case action == "UPLOADED":
		s.uploaded++
	case action == "FAILED":
		s.failures++
		s.detail = "a directory did not take the descriptor: " + reason
	default:
		return
	}
	if s.uploaded > 0 && s.uploaded+s.failures >= s.uploads {
		s.published, s.detail = true, ""
		t.log.Info("an onion service is published")
	}
	t.updateLocked(func(*Status) {})
}

// publish keeps the services of the tor behind l equal to ours, until ctx or l ends. It alone adds and removes them.
func (t *Tor) publish(ctx context.Context, l *link) {
	has := map[onionid.Name]uint64{} // what this tor has: version
	keys := false
	retry := time.Second
	for {
		err := error(nil)
		if !keys {
			err = t.giveClientKeys(l)
			keys = err == nil
		}
		err = errors.Join(err, t.reconcile(l, has))
		again := time.NewTimer(retry)
		if err == nil {
			again.Stop()
			retry = time.Second
		} else {
			t.log.Warn("tor did not take an onion service; trying again")
			t.log.Debug("tor did not take an onion service", "err", err)
			retry = min(2*retry, time.Minute)
		}
		select {
		case <-t.wake:
		case <-again.C:
		case <-l.dead:
			again.Stop()
			return
		case <-ctx.Done():
			if t.cfg.Mode == Attach { // a managed tor ends anyway
				for name := range has {
					l.cmd("DEL_ONION " + strings.TrimSuffix(string(name), ".onion"))
				}
			}
			again.Stop()
			return
		}
		again.Stop()
	}
}

func (t *Tor) giveClientKeys(l *link) error {
	t.mu.Lock()
	keys := maps.Clone(t.clientKeys)
	t.mu.Unlock()
	var errs []error
	for name, key := range keys {
		errs = append(errs, giveClientKey(l, name, key))
	}
	return errors.Join(errs...)
}

// reconcile removes what tor has too much, and adds what it lacks. A changed service is removed and added anew: tor
// cannot change the ports of one.
func (t *Tor) reconcile(l *link, has map[onionid.Name]uint64) error {
	type change struct {
		name    onionid.Name
		version uint64
		add     string
	}
	var changes []change
	t.mu.Lock()
	for name := range has {
		if t.services[name] == nil {
			changes = append(changes, change{name: name})
		}
	}
	for name, s := range t.services {
		if has[name] != s.version {
			changes = append(changes, change{name, s.version, s.addCommand()})
		}
	}
	t.mu.Unlock()

	var errs []error
	for _, c := range changes {
		if has[c.name] != 0 {
			// 552: tor does not know it any more; so be it.
			if _, err := l.cmd("DEL_ONION " + strings.TrimSuffix(string(c.name), ".onion")); err != nil && !isCode(err, 552) {
				errs = append(errs, err)
				continue
			}
			delete(has, c.name)
		}
		if c.add == "" {
			continue
		}
		t.mu.Lock()
		if s := t.services[c.name]; s != nil && s.version == c.version {
			s.forget() // before the command: its events may come before its answer
		}
		t.mu.Unlock()
		// 550: still there from a connection of ours that tor has not yet seen end; the retry will do.
		if _, err := l.cmd(c.add); err != nil {
			errs = append(errs, err)
			t.mu.Lock()
			if s := t.services[c.name]; s != nil {
				s.detail = "tor refuses it: " + err.Error()
			}
			t.updateLocked(func(*Status) {})
			t.mu.Unlock()
			continue
		}
		has[c.name] = c.version
	}
	return errors.Join(errs...)
}

// addCommand is the control command that publishes s.
func (s *service) addCommand() string {
	h := sha512.Sum512(s.key.Seed()) // RFC 8032 §5.1.5: the expanded key, which is what tor takes
	h[0] &= 248
	h[31] = h[31]&63 | 64
	var b strings.Builder
	b.WriteString("ADD_ONION ED25519-V3:" + base64.StdEncoding.EncodeToString(h[:]))
	b.WriteString(" Flags=DiscardPK") // the key is ours: no need to send it back
	if len(s.config.ClientKeys) > 0 {
		b.WriteString(",V3Auth")
	}
	if s.config.PoWRate > 0 {
		fmt.Fprintf(&b, " PoWDefensesEnabled=1 PoWQueueRate=%d PoWQueueBurst=%d", s.config.PoWRate, s.config.PoWBurst)
	}
	for _, port := range slices.Sorted(maps.Keys(s.ports)) {
		fmt.Fprintf(&b, " Port=%d,%s", port, s.ports[port])
	}
	for _, k := range s.config.ClientKeys {
		b.WriteString(" ClientAuthV3=" + base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(k[:]))
	}
	return b.String()
}
