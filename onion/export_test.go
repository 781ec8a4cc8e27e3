// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"errors"
	"strconv"
)

// For the tests in package onion_test.

// Info asks the present tor.
func (t *Tor) Info(key string) (string, error) {
	t.mu.Lock()
	l := t.link
	t.mu.Unlock()
	if l == nil {
		return "", errors.New("no tor")
	}
	return l.getInfo(key)
}

// TorPID is the process id of the present tor.
func (t *Tor) TorPID() (int, error) {
	s, err := t.Info("process/pid")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(s)
}

// ControlSocket is the path of the present managed tor's control socket.
func (t *Tor) ControlSocket() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.socks.addr[:len(t.socks.addr)-len("socks")] + "control"
}

// SocketDir is the directory of sockets, "" if there is none at present.
func (t *Tor) SocketDir() string {
	t.sockets.mu.Lock()
	defer t.sockets.mu.Unlock()
	return t.sockets.dir
}
