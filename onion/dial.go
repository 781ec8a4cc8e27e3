// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"context"
	"crypto/ecdh"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"

	"tarn/crypto/onionid"
)

// Dial implements [Network]. The way is the SOCKS socket of a tor that is ready, or none.
func (t *Tor) Dial(ctx context.Context, addr, isolation string) (net.Conn, error) {
	name, port, err := ParseAddress(addr)
	if err != nil {
		return nil, err
	}
	if t.cfgErr != nil {
		return nil, errors.Join(ErrNotReady, t.cfgErr)
	}
	if t.cfg.Mode == Off {
		return nil, fmt.Errorf("%w: %w", ErrNotReady, ErrOff)
	}
	t.mu.Lock()
	socks, ready := t.socks, t.link != nil && t.status.State == StateReady
	t.mu.Unlock()
	if !ready {
		return nil, ErrNotReady
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, socks.network, socks.addr) // a unix path or loopback address (parseEndpoint)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: its SOCKS port: %w", ErrNotReady, err)
	}
	if err := socksConnectTo(ctx, c, string(name), port, t.socksUser(isolation)); err != nil {
		c.Close()
		return nil, fmt.Errorf("dial: %w", err)
	}
	return conn{c, AnonymousClient, Addr(addr)}, nil
}

// socksUser is what isolates: equal for equal strings in this process, and nothing that tells the purpose to tor's log.
func (t *Tor) socksUser(isolation string) string {
	m := hmac.New(sha256.New, t.isoKey[:])
	m.Write([]byte(isolation))
	return hex.EncodeToString(m.Sum(nil)[:16]) // never "<torS0X>…", which tor reserves
}

// conn is a stream with onion addresses. It hides the socket's own methods (CloseWrite: Tor has no half-close).
type conn struct {
	net.Conn
	local, remote Addr
}

func (c conn) LocalAddr() net.Addr  { return c.local }
func (c conn) RemoteAddr() net.Addr { return c.remote }

// AddClientKey gives tor our x25519 key for a service with client authorisation. It is kept in memory and given to each
// tor we start; the present one knows it on return.
func (t *Tor) AddClientKey(name onionid.Name, key *ecdh.PrivateKey) error {
	if key == nil || key.Curve() != ecdh.X25519() {
		return errors.New("client authorisation: not an x25519 key")
	}
	if _, err := name.Key(); err != nil {
		return fmt.Errorf("client authorisation: %w", err)
	}
	t.mu.Lock()
	t.clientKeys[name] = key
	l := t.link
	t.mu.Unlock()
	if l == nil {
		return nil
	}
	return giveClientKey(l, name, key)
}

func giveClientKey(l *link, name onionid.Name, key *ecdh.PrivateKey) error {
	id := strings.TrimSuffix(string(name), ".onion")
	_, err := l.cmd("ONION_CLIENT_AUTH_ADD " + id + " x25519:" + base64.StdEncoding.EncodeToString(key.Bytes()))
	if err != nil {
		return fmt.Errorf("give tor a client key: %w", err)
	}
	return nil
}
