// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"bufio"
	"context"
	"encoding/json/v2"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tarn/store"
)

// pipes is a listener in memory, so that a whole server runs in fake time.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.done:
	default:
		close(p.done)
	}
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.done:
		return nil, errors.New("closed")
	}
}

// served runs the node's API over pipes until stop.
func served(t *testing.T, n *node) (c *http.Client, l *pipes, stop func() error) {
	t.Helper()
	l = newPipes()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.api.Serve(ctx, l) }()
	transport := &http.Transport{DialContext: l.dial}
	return &http.Client{Transport: transport}, l, func() error {
		cancel()
		err := <-ended
		transport.CloseIdleConnections()
		return err
	}
}

func get(t *testing.T, c *http.Client, token, path string) (int, obj) {
	t.Helper()
	q, _ := http.NewRequest("GET", "http://node"+path, nil)
	q.Header.Set("Authorization", "Bearer "+token)
	r, err := c.Do(q)
	if err != nil {
		t.Error(err)
		return 0, nil
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	var o obj
	if err := errors.Join(err, json.Unmarshal(raw, &o)); err != nil {
		t.Error(err, string(raw))
	}
	return r.StatusCode, o
}

func TestLongPollOverAConnectionSleepsAndWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		alice, bob := n.person("alice"), n.person("bob")
		r := alice.meet(bob)
		c, _, stop := served(t, n)
		_, o := get(t, c, bob.token, "/_matrix/client/v3/sync")
		since := o["next_batch"].(string)
		start := time.Now()
		done := make(chan obj)
		go func() {
			_, o := get(t, c, bob.token, "/_matrix/client/v3/sync?timeout=300000&since="+since)
			done <- o
		}()
		synctest.Wait()
		time.Sleep(4 * time.Minute) // longer than every timeout of the server
		alice.say(r, "hello")
		o = <-done
		if at(o, "rooms", "join", r, "timeline", "events", 0, "content", "body") != "hello" || time.Since(start) != 4*time.Minute {
			t.Errorf("after %v: %v", time.Since(start), o)
		}
		start = time.Now()
		_, o = get(t, c, bob.token, "/_matrix/client/v3/sync?timeout=30000&since="+o["next_batch"].(string))
		if len(at(o, "rooms", "join").(obj)) != 0 || time.Since(start) != 30*time.Second {
			t.Errorf("an empty poll: %v after %v", o, time.Since(start))
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestStoppingAnswersWaitingPollsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		bob := n.person("bob")
		c, _, stop := served(t, n)
		_, o := get(t, c, bob.token, "/_matrix/client/v3/sync")
		since := o["next_batch"].(string)
		done := make(chan int)
		go func() {
			status, _ := get(t, c, bob.token, "/_matrix/client/v3/sync?timeout=300000&since="+since)
			done <- status
		}()
		synctest.Wait()
		start := time.Now()
		stopped := make(chan error)
		go func() { stopped <- stop() }()
		if status := <-done; status != 200 {
			t.Errorf("status %d", status)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("stopping took %v", took)
		}
	})
}

// countingWaiter knows how many requests sleep.
type countingWaiter struct {
	Waiter
	asleep atomic.Int32
	sleeps chan struct{} // gets one each time; may be nil
}

func (w *countingWaiter) Wait(ctx context.Context, topic string, after store.Pos) (store.Pos, error) {
	w.asleep.Add(1)
	if w.sleeps != nil {
		w.sleeps <- struct{}{}
	}
	defer w.asleep.Add(-1)
	return w.Waiter.Wait(ctx, topic, after)
}

func TestAPollEndsWhenItsClientGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &countingWaiter{}
		n := newNode(t, func(c *Config) { w.Waiter, c.Stream = c.Stream, w })
		bob := n.person("bob")
		_, l, stop := served(t, n)
		since := bob.sync("")["next_batch"].(string)
		conn, err := l.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /_matrix/client/v3/sync?timeout=300000&since=%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", since, bob.token)
		synctest.Wait()
		if got := w.asleep.Load(); got != 1 {
			t.Fatalf("%d requests sleep, want 1", got)
		}
		conn.Close()
		synctest.Wait()
		if got := w.asleep.Load(); got != 0 {
			t.Errorf("%d requests sleep though their client is gone", got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestSlowAndLargeRequestsAreCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		alice := n.person("alice")
		_, l, stop := served(t, n)
		for name, c := range map[string]struct {
			request string
			after   time.Duration
			answer  string
		}{
			"headers that never end":  {"GET / HTTP/1.1\r\nHost: x\r\n", headerTimeout, ""},
			"a body that never comes": {"POST /_matrix/client/v3/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", bodyTimeout, "400"},
			"a body that nobody wants": {"POST /_matrix/client/v3/logout HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + alice.token +
				"\r\nContent-Length: 100\r\n\r\n{", bodyTimeout, "200"},
			"headers too large": {"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("x", maxHeaderBytes+8192) + "\r\n\r\n", 0, "431"},
		} {
			conn, err := l.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			go io.WriteString(conn, c.request) // the server may stop reading amid it
			line, _ := bufio.NewReader(conn).ReadString('\n')
			if took := time.Since(start); took < c.after || took > c.after+time.Second {
				t.Errorf("%s: ended after %v, want %v", name, took, c.after)
			}
			if !strings.Contains(line, c.answer) {
				t.Errorf("%s: %q", name, line)
			}
			conn.Close()
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
}
