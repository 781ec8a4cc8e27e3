// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// SOCKS5 (RFC 1928, 1929) with tor's extended errors (Tor proposal 304). Its own 60 lines instead of a library's: the
// reply codes come as numbers, not in a text, and there is no code here that could resolve a name.
const (
	socksVersion  = 5
	socksUserPass = 2 // method: user and password; tor takes any, and isolates by them
	socksConnect  = 1
	socksDomain   = 3
)

// socksConnectTo asks the SOCKS server on c for a stream to host:port. The end of ctx ends it; c is then unusable.
func socksConnectTo(ctx context.Context, c net.Conn, host string, port int, user string) error {
	if len(host) > 255 || len(user) == 0 || len(user) > 255 {
		return errors.New("SOCKS: name or user too long")
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	err := socksHandshake(c, host, port, user)
	if !stop() { // ctx ended: the deadline is, or is being, set
		if err == nil || ctx.Err() != nil {
			err = ctx.Err()
		}
	}
	return err
}

func socksHandshake(c net.Conn, host string, port int, user string) error {
	// One step at a time: tor drops what it gets before it has answered.
	var answer [2]byte
	if _, err := c.Write([]byte{socksVersion, 1, socksUserPass}); err != nil {
		return fmt.Errorf("SOCKS greeting: %w", err)
	}
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return fmt.Errorf("SOCKS greeting: %w", err)
	}
	if answer != [2]byte{socksVersion, socksUserPass} {
		return errors.New("SOCKS: the server refuses isolation by user (is it a Tor SocksPort?)")
	}
	b := append([]byte{1, byte(len(user))}, user...) // RFC 1929: version 1, user, password "0"
	if _, err := c.Write(append(b, 1, '0')); err != nil {
		return fmt.Errorf("SOCKS user: %w", err)
	}
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return fmt.Errorf("SOCKS user: %w", err)
	}
	if answer[1] != 0 {
		return errors.New("SOCKS: the server refuses our user (is it a Tor SocksPort?)")
	}
	b = append([]byte{socksVersion, socksConnect, 0, socksDomain, byte(len(host))}, host...)
	if _, err := c.Write(append(b, byte(port>>8), byte(port))); err != nil {
		return fmt.Errorf("SOCKS request: %w", err)
	}
	var reply [4]byte
	if _, err := io.ReadFull(c, reply[:]); err != nil {
		return fmt.Errorf("SOCKS reply: %w", err)
	}
	if reply[0] != socksVersion {
		return errors.New("SOCKS: not a version 5 reply")
	}
	if reply[1] != 0 {
		return socksError(reply[1])
	}
	var rest int // of the bound address, which means nothing here
	switch reply[3] {
	case 1:
		rest = 4
	case 4:
		rest = 16
	case socksDomain:
		var n [1]byte
		if _, err := io.ReadFull(c, n[:]); err != nil {
			return fmt.Errorf("SOCKS reply: %w", err)
		}
		rest = int(n[0])
	default:
		return errors.New("SOCKS: unknown address type in the reply")
	}
	if _, err := io.ReadFull(c, make([]byte, rest+2)); err != nil {
		return fmt.Errorf("SOCKS reply: %w", err)
	}
	return nil
}

// socksError is the meaning of a reply code.
func socksError(code byte) error {
	var err error
	switch code {
	case 0xF0:
		err = ErrDescNotFound
	case 0xF1, 0xF6:
		err = ErrBadOnion
	case 0xF2, 0xF7:
		err = ErrIntroFailed
	case 0xF3:
		err = ErrRendFailed
	case 0xF4, 0xF5:
		err = ErrNeedAuth
	case 1, 5: // 5: no such virtual port. 1: the program behind it is down
		err = ErrRefused
	default: // 2 ruleset, 3 network, 4 host, 6 time limit, …
		err = ErrUnreachable
	}
	return fmt.Errorf("%w (SOCKS code %02X)", err, code)
}
