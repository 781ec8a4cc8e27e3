// SPDX-License-Identifier: Apache-2.0

// Package control lets the command line speak to the running process of the same data directory.
//
// Problem: `node invite` must act on the node that runs, which owns the database; opening the database a second
// time is refused. The package serves named methods on a unix socket that only the owner may open: one request a
// connection, one line of JSON each way.
//
// Invariants: requests and answers are bounded (maxRequest, maxAnswer) before they are read; a client that sends
// nothing is cut off after patience; nothing listens on TCP; the socket's folder and mode keep other users out.
package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Bounds of one exchange.
const (
	maxRequest  = 64 << 10         // bytes
	maxAnswer   = 4 << 20          // bytes
	maxSocket   = 104              // bytes of a unix socket's path (sockaddr_un has 108)
	maxConns    = 32               // at once; more wait
	patience    = 10 * time.Second // for a request to arrive, and an answer to be taken
	answerLimit = 2 * time.Minute  // for a method to run
)

// Errors that Call returns.
var (
	// ErrNotRunning: nobody listens at that socket.
	ErrNotRunning = errors.New("it is not running")
	// ErrUnknownMethod: the running process does not know the method (another version?).
	ErrUnknownMethod = errors.New("control: unknown method")
	// ErrTooLarge: a request or an answer exceeds its bound.
	ErrTooLarge = errors.New("control: message too large")
)

// Error is what a method answered when it failed: its text, for a person.
type Error struct{ Text string }

func (e *Error) Error() string { return e.Text }

// Handler is one method: args is the request's JSON, the result is marshalled. Its error's text goes to the caller.
type Handler func(ctx context.Context, args json.RawMessage) (result any, err error)

type request struct {
	Method string          `json:"method"`
	Args   json.RawMessage `json:"args,omitempty"`
}

type answer struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// Serve listens at path until ctx ends. A socket left by a killed process is replaced: the caller holds the lock of
// the data directory, so nobody else serves there.
func Serve(ctx context.Context, path string, methods map[string]Handler) error {
	if len(path) > maxSocket {
		return fmt.Errorf("control socket %q: the path is %d bytes long, at most %d are possible: choose a data directory with a shorter name", path, len(path), maxSocket)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("control socket: %w", err)
	}
	old := syscall.Umask(0o077) // the socket is born 0600
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	var running sync.WaitGroup
	defer running.Wait()
	places := make(chan struct{}, maxConns)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("control socket: %w", err)
		}
		places <- struct{}{}
		running.Go(func() {
			defer func() { <-places; c.Close() }()
			defer context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Now()) })() // who says nothing holds up nobody's stop
			serveOne(ctx, c, methods)
		})
	}
}

func serveOne(ctx context.Context, c net.Conn, methods map[string]Handler) {
	c.SetDeadline(time.Now().Add(patience))
	var a answer
	req, err := readRequest(c)
	if err == nil {
		c.SetDeadline(time.Time{})
		ctx, cancel := context.WithTimeout(ctx, answerLimit)
		a.Result, err = run(ctx, methods, req)
		cancel()
	}
	if err != nil {
		a = answer{Error: err.Error()}
	}
	b, err := json.Marshal(a)
	if err != nil || len(b) > maxAnswer {
		b, _ = json.Marshal(answer{Error: ErrTooLarge.Error()})
	}
	c.SetDeadline(time.Now().Add(patience))
	c.Write(append(b, '\n')) // the caller sees a broken answer as an error of its own
}

// readRequest reads one line; what follows it is ignored.
func readRequest(r io.Reader) (request, error) {
	var req request
	line, err := bufio.NewReader(io.LimitReader(r, maxRequest+1)).ReadBytes('\n')
	if len(line) > maxRequest {
		return req, ErrTooLarge
	}
	if err != nil {
		return req, fmt.Errorf("control: request cut short: %w", err)
	}
	if err := json.Unmarshal(line, &req); err != nil {
		return req, fmt.Errorf("control: request is not JSON: %w", err)
	}
	return req, nil
}

func run(ctx context.Context, methods map[string]Handler, req request) (json.RawMessage, error) {
	h := methods[req.Method]
	if h == nil {
		return nil, ErrUnknownMethod
	}
	res, err := h(ctx, req.Args)
	if err != nil {
		return nil, err
	}
	return json.Marshal(res)
}

// Call runs a method of the process that serves at path. result may be nil. An error of the method itself is an *Error.
func Call(ctx context.Context, path, method string, args, result any) error {
	var d net.Dialer // a unix socket: nothing leaves the machine
	c, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist) {
			return ErrNotRunning
		}
		return fmt.Errorf("control: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	req := request{Method: method}
	if args != nil {
		if req.Args, err = json.Marshal(args); err != nil {
			return fmt.Errorf("control: %w", err)
		}
	}
	b, err := json.Marshal(req)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	if len(b) >= maxRequest {
		return ErrTooLarge
	}
	if _, err := c.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	line, err := bufio.NewReader(io.LimitReader(c, maxAnswer+1)).ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("control: answer cut short: %w", err)
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return fmt.Errorf("control: answer is not JSON: %w", err)
	}
	if a.Error != "" {
		if a.Error == ErrUnknownMethod.Error() {
			return ErrUnknownMethod
		}
		return &Error{a.Error}
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(a.Result, result)
}
