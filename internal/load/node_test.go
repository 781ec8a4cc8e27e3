// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program builds the node once, as `make build` does.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tarn-load-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "node")
	cmd := exec.Command("go", "build", "-trimpath", "-o", bin, "tarn/cmd/node")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the node: %w\n%s", err, out)
	}
	built = bin
	return bin, nil
})

var built string // by program, to be removed

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		os.RemoveAll(filepath.Dir(built))
	}
	os.Exit(code)
}

// node is a node program without Tor, with open registration and no limits on logins.
type node struct {
	t      testing.TB
	bin    string
	dir    string
	url    string
	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process is gone
	stderr *bytes.Buffer
	http   *http.Client
}

// newNode makes a node's folder; it does not run yet.
func newNode(t testing.TB) *node {
	t.Helper()
	bin, err := program()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "tl") // short: there will be a unix socket in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	out, err := exec.Command(bin, "init", "--dir", dir, "--user", "-", "--tor", "off", "--open-registration", "--no-rate-limit", "--listen", addr).CombinedOutput()
	if err != nil {
		t.Fatalf("node init: %v\n%s", err, out)
	}
	n := &node{t: t, bin: bin, dir: dir, url: "http://" + addr, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096, DisableCompression: true}}}
	t.Cleanup(n.kill)
	return n
}

// start runs the node and returns how long it took to its first answer.
func (n *node) start() time.Duration {
	n.t.Helper()
	n.http.CloseIdleConnections() // of the process before
	n.stderr = &bytes.Buffer{}
	n.cmd = exec.Command(n.bin, "run", "--config", filepath.Join(n.dir, "node.toml"))
	n.cmd.Stderr = n.stderr
	begun := time.Now()
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	ended := make(chan struct{})
	n.ended = ended
	go func() { n.cmd.Wait(); close(ended) }()
	for {
		if r, err := n.http.Get(n.url + "/_matrix/client/versions"); err == nil {
			io.Copy(io.Discard, r.Body)
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return time.Since(begun)
			}
		}
		select {
		case <-ended:
			n.t.Fatalf("the node ended:\n%s", n.stderr)
		case <-time.After(time.Millisecond): // nobody tells when a port is open
		}
		if time.Since(begun) > time.Minute {
			n.t.Fatalf("the node does not answer:\n%s", n.stderr)
		}
	}
}

// kill ends the process with SIGKILL, if it runs.
func (n *node) kill() {
	if n.cmd != nil {
		n.cmd.Process.Kill()
		<-n.ended
		n.cmd = nil
	}
}

// stop ends the node as Ctrl-C does.
func (n *node) stop() {
	n.t.Helper()
	n.cmd.Process.Signal(syscall.SIGTERM)
	<-n.ended
	if !n.cmd.ProcessState.Success() {
		n.t.Fatalf("the node did not end well: %v\n%s", n.cmd.ProcessState, n.stderr)
	}
	n.cmd = nil
}

// cpu is the processor time of the node's process so far (proc(5); ticks of 10 ms).
func (n *node) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.cmd.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		n.t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// status reads a line of /proc/PID/status, in bytes: VmRSS, RssAnon, VmHWM.
func (n *node) status(name string) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.cmd.Process.Pid))
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			kb, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			if err != nil {
				n.t.Fatal(err)
			}
			return kb << 10
		}
	}
	n.t.Fatalf("no %s in /proc", name)
	return 0
}

// disk is how much room the database takes (blocks, not lengths: some of Badger's files are sparse while they are open).
func (n *node) disk() (total int64) {
	err := filepath.WalkDir(filepath.Join(n.dir, "db"), func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		if err != nil {
			return err
		}
		total += i.Sys().(*syscall.Stat_t).Blocks * 512
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return total
}

// client is a user's device.
type client struct {
	n      *node
	user   string
	device string
	token  string
}

// answered is an answer that is not 200.
type answered struct {
	asked  string
	status int
	code   string
	body   string
}

func (a *answered) Error() string { return fmt.Sprintf("%s: %d %s", a.asked, a.status, a.body) }

// do makes a request and gives the answer's body. body: nil, bytes as they are, or anything that becomes JSON. What is not
// 200 is an *answered, what is no answer another error.
func (c *client) do(ctx context.Context, method, path string, body any) ([]byte, error) {
	var in io.Reader
	kind := "application/json"
	switch b := body.(type) {
	case nil:
	case []byte:
		in, kind = bytes.NewReader(b), "application/octet-stream"
	case string:
		in = strings.NewReader(b)
	default:
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		in = bytes.NewReader(raw)
	}
	if !strings.HasPrefix(path, "/_matrix") {
		path = "/_matrix/client/v3" + path
	}
	q, err := http.NewRequestWithContext(ctx, method, c.n.url+path, in)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		q.Header.Set("Authorization", "Bearer "+c.token)
	}
	if in != nil {
		q.Header.Set("Content-Type", kind)
	}
	r, err := c.n.http.Do(q)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if r.StatusCode != http.StatusOK {
		var e struct {
			Code string `json:"errcode"`
		}
		_ = json.Unmarshal(raw, &e) // what is not JSON has no code
		return nil, &answered{method + " " + path, r.StatusCode, e.Code, string(raw)}
	}
	return raw, nil
}

// ask is do that must succeed, read into out (nil: not read).
func (c *client) ask(method, path string, body, out any) {
	c.n.t.Helper()
	raw, err := c.do(context.Background(), method, path, body)
	if err != nil {
		c.n.t.Fatal(err)
	}
	if out != nil {
		if err := json.Unmarshal(raw, out); err != nil {
			c.n.t.Fatal(err)
		}
	}
}

const password = "a password of the tests"

// register makes a user with a session.
func (n *node) register(name string) *client {
	n.t.Helper()
	c, err := n.tryRegister(name)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

func (n *node) tryRegister(name string) (*client, error) {
	c := &client{n: n}
	raw, err := c.do(context.Background(), "POST", "/register", map[string]any{"username": name, "password": password, "auth": map[string]any{"type": "m.login.dummy"}})
	if err != nil {
		return nil, err
	}
	return c, c.session(raw)
}

// login makes another session of the user.
func (c *client) login() *client {
	c.n.t.Helper()
	d := &client{n: c.n}
	raw, err := d.do(context.Background(), "POST", "/login", map[string]any{"type": "m.login.password", "password": password,
		"identifier": map[string]any{"type": "m.id.user", "user": c.user}})
	if err == nil {
		err = d.session(raw)
	}
	if err != nil {
		c.n.t.Fatal(err)
	}
	return d
}

func (c *client) session(raw []byte) error {
	var a struct {
		User   string `json:"user_id"`
		Device string `json:"device_id"`
		Token  string `json:"access_token"`
	}
	err := json.Unmarshal(raw, &a)
	c.user, c.device, c.token = a.User, a.Device, a.Token
	return err
}

// create makes a room.
func (c *client) create(body map[string]any) (room string) {
	c.n.t.Helper()
	var a struct {
		Room string `json:"room_id"`
	}
	c.ask("POST", "/createRoom", body, &a)
	return a.Room
}

// meet makes a public room with others in it.
func (c *client) meet(others ...*client) (room string) {
	c.n.t.Helper()
	room = c.create(map[string]any{"preset": "public_chat"})
	for _, o := range others {
		o.ask("POST", "/join/"+room, "{}", nil)
	}
	return room
}

// text is a message as people write them: some ninety characters.
func text(what string) string {
	return `{"msgtype":"m.text","body":"A sentence of some ninety characters, as people write them to each other. ` + what + `"}`
}

// send sends a message under a transaction id.
func (c *client) send(ctx context.Context, room, txn, content string) (event string, err error) {
	raw, err := c.do(ctx, "PUT", "/rooms/"+room+"/send/m.room.message/"+txn, content)
	if err != nil {
		return "", err
	}
	var a struct {
		Event string `json:"event_id"`
	}
	err = json.Unmarshal(raw, &a)
	return a.Event, err
}

// synced is what the tests look at in a /sync.
type synced struct {
	Next     string    `json:"next_batch"`
	Data     eventList `json:"account_data"`
	ToDevice eventList `json:"to_device"`
	Rooms    struct {
		Join map[string]struct {
			Timeline struct {
				Events  []event `json:"events"`
				Limited bool    `json:"limited"`
				Prev    string  `json:"prev_batch"`
			} `json:"timeline"`
		} `json:"join"`
	} `json:"rooms"`
}

type eventList struct {
	Events []event `json:"events"`
}

type event struct {
	ID      string          `json:"event_id"`
	Type    string          `json:"type"`
	Sender  string          `json:"sender"`
	Content json.RawMessage `json:"content"`
}

// pages walks through a room's whole history and gives the ids of the events, the newest first.
func (c *client) pages(room, dir, from string, limit int) (ids []string, err error) {
	for {
		path := fmt.Sprintf("/rooms/%s/messages?dir=%s&limit=%d", room, dir, limit)
		if from != "" {
			path += "&from=" + from
		}
		raw, err := c.do(context.Background(), "GET", path, nil)
		if err != nil {
			return nil, err
		}
		var page struct {
			Chunk []event `json:"chunk"`
			End   string  `json:"end"`
		}
		if err := json.Unmarshal(raw, &page); err != nil {
			return nil, err
		}
		for _, e := range page.Chunk {
			ids = append(ids, e.ID)
		}
		if page.End == "" {
			return ids, nil
		}
		from = page.End
	}
}
