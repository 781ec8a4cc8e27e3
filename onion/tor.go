// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tarn/crypto/onionid"
	"tarn/internal/durable"
)

// Tor is the real [Network]: one tor process, or a running one that we attach to. Make it by [New], let it work by Run.
type Tor struct {
	cfg     Config
	cfgErr  error
	log     *slog.Logger
	isoKey  [32]byte // makes isolation strings into SOCKS users; fresh for each process and Tor
	sockets sockets
	running atomic.Bool
	wake    chan struct{} // 1 slot: services have changed, for publish

	mu         sync.Mutex // guards what follows; never held during I/O
	status     Status
	changed    chan struct{} // closed and replaced at each change of status and services
	services   map[onionid.Name]*service
	versions   uint64 // given to services so far
	clientKeys map[onionid.Name]*ecdh.PrivateKey
	link       *link    // to the present tor, nil if there is none
	socks      endpoint // its SOCKS port; valid while link is
}

var _ Network = (*Tor)(nil)

// New makes a Tor that does nothing yet. An impossible Config comes out as Run's (and every call's) error.
func New(cfg Config) *Tor {
	t := &Tor{
		cfg:        cfg,
		wake:       make(chan struct{}, 1),
		changed:    make(chan struct{}),
		services:   map[onionid.Name]*service{},
		clientKeys: map[onionid.Name]*ecdh.PrivateKey{},
	}
	t.cfgErr = t.cfg.check()
	t.log = t.cfg.Log
	t.sockets.home = t.cfg.Dir
	t.status = Status{Mode: t.cfg.Mode, State: StateOff}
	rand.Read(t.isoKey[:])
	return t
}

// Backoff between attempts to have a tor: from the first to the last value by doubling; back to the first once it was
// ready.
const (
	firstWait = 500 * time.Millisecond
	lastWait  = time.Minute
)

// Run starts (or attaches to) tor and keeps it: connects to the network however long that takes, publishes services,
// and starts again when tor dies. It returns nil when ctx has ended and tor with it; an error only for what trying
// again cannot mend: an impossible configuration, a directory in use by another process, a second Run.
func (t *Tor) Run(ctx context.Context) error {
	if t.cfgErr != nil {
		return t.cfgErr
	}
	if t.running.Swap(true) {
		return errors.New("onion: Run was called twice")
	}
	defer t.running.Store(false)
	if t.cfg.Mode == Off {
		<-ctx.Done()
		return nil
	}
	sock := ""
	if t.cfg.Mode == Managed {
		if err := os.MkdirAll(t.cfg.Dir, 0o700); err != nil {
			return fmt.Errorf("tor's directory: %w", err)
		}
		unlock, err := durable.Lock(t.cfg.Dir)
		if err != nil {
			return fmt.Errorf("tor's directory: %w", err)
		}
		defer unlock()
		if sock, err = t.sockets.hold(); err != nil {
			return err
		}
		defer t.sockets.release()
		if err := sweepSockets(t.cfg.Dir, sock); err != nil {
			return fmt.Errorf("tor's directory: %w", err)
		}
	}
	defer t.update(func(s *Status) { s.State, s.Reason, s.Detail = StateOff, ReasonNone, "" })

	wait := firstWait
	for {
		t.update(func(s *Status) {
			s.State, s.Percent, s.Tag, s.Progress = StateStarting, 0, "", time.Now()
		})
		ready, err := t.session(ctx, sock)
		if ctx.Err() != nil {
			return nil
		}
		if ready {
			wait = firstWait
		}
		t.failed(err)
		if sleepErr := sleep(ctx, wait); sleepErr != nil {
			return nil
		}
		wait = min(2*wait, lastWait)
		t.update(func(s *Status) { s.Restarts++ })
	}
}

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// trouble is an error with its Reason for the Status.
type trouble struct {
	reason Reason
	detail string
	err    error
}

func (e *trouble) Error() string {
	if e.err == nil {
		return e.detail
	}
	return e.detail + ": " + e.err.Error()
}
func (e *trouble) Unwrap() error { return e.err }

// failed notes the end of a session.
func (t *Tor) failed(err error) {
	tr := &trouble{ReasonControl, "the control connection ended", err}
	errors.As(err, &tr)
	detail := tr.detail
	if tr.err != nil && tr.reason != ReasonTorExited {
		detail = tr.Error()
	}
	t.update(func(s *Status) {
		s.State, s.Reason, s.Detail, s.Percent, s.Tag = StateFailed, tr.reason, detail, 0, ""
	})
	t.log.Warn("no tor; trying again", "reason", string(tr.reason), "advice", tr.reason.Advice())
	t.log.Debug("no tor", "err", err)
}

// session is the life of one tor (or one attachment): from its start to its end, or ctx's. It says whether tor was
// ever ready, and why it ended.
func (t *Tor) session(ctx context.Context, sock string) (ready bool, err error) {
	var p *process
	var l *link
	if t.cfg.Mode == Managed {
		if p, err = startProcess(&t.cfg, sock); err != nil {
			return false, err
		}
		defer func() { p.stop(l) }()
		if l, err = p.connect(ctx); err != nil {
			return false, err
		}
		// From here on the end of this connection, thus of this process, is tor's end.
		if _, err := l.cmd("TAKEOWNERSHIP"); err != nil {
			return false, &trouble{ReasonControl, "tor does not let itself be owned", err}
		}
	} else {
		dial := dialUnix(t.cfg.ControlSocket)
		if t.cfg.ControlAddr != "" {
			dial = func() (net.Conn, error) { return net.DialTimeout("tcp", t.cfg.ControlAddr, commandTimeout) }
		}
		if l, err = openLink(dial, t.cfg.ControlPassword); err != nil {
			return false, &trouble{ReasonControl, "cannot attach to tor", err}
		}
		defer l.close()
	}
	if err := t.checkVersion(l); err != nil {
		return false, err
	}
	socks, err := t.socksOf(l, sock)
	if err != nil {
		return false, err
	}
	err = t.use(ctx, l, socks)
	ready = t.Status().State == StateReady
	t.unlink()
	if p != nil && ctx.Err() == nil { // a control connection ends mostly because tor does
		select {
		case <-p.done:
			err = p.exited()
		case <-time.After(time.Second):
		}
	}
	return ready, err
}

// use works with the tor of l until it or ctx ends.
func (t *Tor) use(ctx context.Context, l *link, socks endpoint) error {
	t.mu.Lock()
	t.link, t.socks = l, socks
	t.mu.Unlock()

	if err := l.listen("STATUS_CLIENT STATUS_GENERAL HS_DESC", t.onEvent); err != nil {
		return &trouble{ReasonControl, "no events", err}
	}
	defer l.quiet.Wait()   // no event of this tor is taken for one of the next
	defer l.events.Close() // commands go on working
	pctx, stop := context.WithCancel(ctx)
	var publisher sync.WaitGroup
	publisher.Go(func() { t.publish(pctx, l) })
	defer publisher.Wait()
	defer stop()

	// Subscribed first, then the network: no event is missed. An attached tor may long be connected: ask.
	t.update(func(s *Status) { s.State, s.Reason, s.Detail = StateBootstrapping, ReasonNone, "" })
	if t.cfg.Mode == Managed {
		if _, err := l.cmd("SETCONF DisableNetwork=0"); err != nil {
			return &trouble{ReasonControl, "tor does not open the network", err}
		}
	}
	if phase, err := l.getInfo("status/bootstrap-phase"); err == nil {
		e := splitEvent(phase) // NOTICE BOOTSTRAP PROGRESS=…
		t.onStatus(e.name, e.arg(0), e.kv)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-l.dead:
		return &trouble{ReasonControl, "the control connection ended", nil}
	}
}

// unlink forgets the present tor: dials err, services are no longer published.
func (t *Tor) unlink() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.link, t.socks = nil, endpoint{}
	for _, s := range t.services {
		s.forget()
	}
	t.updateLocked(func(s *Status) { s.State = StateStarting })
}

func (t *Tor) checkVersion(l *link) error {
	text, err := l.getInfo("version")
	if err != nil {
		return &trouble{ReasonControl, "tor does not tell its version", err}
	}
	v, err := parseVersion(text)
	if err != nil {
		return &trouble{ReasonControl, "tor's version is unreadable", err}
	}
	if v.less(oldestTor) {
		return &trouble{ReasonTorOld, fmt.Sprintf("tor %v is too old: 0.4.8 is the oldest that works, %v the oldest without known holes", v, safeTor), nil}
	}
	warning := ""
	if v.less(safeTor) {
		warning = fmt.Sprintf("tor %v has known security holes: install %v or later", v, safeTor)
		t.log.Warn(warning)
	}
	t.update(func(s *Status) { s.Version, s.Warning = v.String(), warning })
	return nil
}

// socksOf is where the tor of l takes connections.
func (t *Tor) socksOf(l *link, sock string) (endpoint, error) {
	if t.cfg.Mode == Managed {
		return endpoint{"unix", sock + "/socks"}, nil
	}
	if t.cfg.SocksAddr != "" {
		return parseEndpoint(t.cfg.SocksAddr)
	}
	text, err := l.getInfo("net/listeners/socks") // "127.0.0.1:9050" "unix:/run/tor/socks"
	if err != nil {
		return endpoint{}, &trouble{ReasonControl, "tor does not tell its SOCKS port", err}
	}
	for _, s := range strings.Fields(text) {
		if e, err := parseEndpoint(strings.Trim(s, `"`)); err == nil {
			return e, nil
		}
	}
	return endpoint{}, &trouble{ReasonControl, "the running tor has no SOCKS port on this computer", nil}
}

// onEvent takes in tor's events, one at a time, in the link's goroutine: no commands in here.
func (t *Tor) onEvent(e event) {
	switch e.name {
	case "STATUS_CLIENT", "STATUS_GENERAL":
		t.onStatus(e.arg(0), e.arg(1), e.kv)
	case "HS_DESC":
		t.onDescriptor(e.arg(0), e.arg(1), e.kv["REASON"])
	}
}

func dialUnix(path string) func() (net.Conn, error) {
	return func() (net.Conn, error) { return net.DialTimeout("unix", path, commandTimeout) }
}
