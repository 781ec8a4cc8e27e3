// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"tarn/configs"
	"tarn/internal/cli"
	"tarn/internal/control"
	"tarn/internal/durable"
	"tarn/internal/termqr"
	"tarn/mailbox"
)

const socketName = "control.sock"

// socketPath is where a running node listens for commands.
func socketPath(cfg configs.Node) string { return filepath.Join(cfg.DataDir, socketName) }

// loadConfig reads the configuration and makes its paths absolute.
func loadConfig(file string) (configs.Node, error) {
	cfg := configs.DefaultNode()
	if err := configs.Load(file, &cfg); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return cfg, fmt.Errorf("%w (%w)", err, errNoNode)
		}
		return cfg, err
	}
	return cfg, configs.Absolute(file, &cfg.DataDir, &cfg.Tor.TorrcFile)
}

// patience is how long a command waits for a node that is starting, stopping, or served by another command.
const patience = 15 * time.Second

// call runs a method of the running node. If none runs and alone is set, the method is run here, on the node's own
// data: what it wrote leaves when the node runs. A node that is starting or stopping has the data and no socket:
// it is waited for.
func call(ctx context.Context, file, method string, alone bool, args, result any) error {
	cfg, err := loadConfig(file)
	if err != nil {
		return err
	}
	for end := time.Now().Add(patience); ; {
		err := control.Call(ctx, filepath.Join(cfg.DataDir, socketName), method, args, result)
		if !errors.Is(err, control.ErrNotRunning) || !alone {
			return err
		}
		if err = callHere(ctx, cfg, method, args, result); !errors.Is(err, durable.ErrLocked) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// callHere runs a method on the data of a node that does not run. durable.ErrLocked: somebody else has them.
func callHere(ctx context.Context, cfg configs.Node, method string, args, result any) (err error) {
	n, err := openMade(cfg, io.Discard)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	raw, err := json.Marshal(args)
	if err != nil {
		return err
	}
	res, err := n.methods()[method](ctx, raw)
	if err != nil {
		return err
	}
	if raw, err = json.Marshal(res); err != nil {
		return err
	}
	return json.Unmarshal(raw, result)
}

func cmdInvite(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "invite")
	life := f.Duration("life", 7*24*time.Hour, "how long the link can be accepted")
	noQR := f.Bool("no-qr", false, "do not draw a QR code")
	if err := f.NoWords(args); err != nil {
		return err
	}
	var res inviteResult
	if err := call(ctx, f.Config, "invite", true, inviteArgs{Life: *life}, &res); err != nil {
		return err
	}
	err := f.Show(e, res, func(w io.Writer) { fmt.Fprintln(w, res.Link) })
	if err == nil && !f.JSON && !*noQR {
		err = termqr.Write(e.Err, res.Link)
	}
	fmt.Fprintf(e.Err, "Give this link to one person, over a channel that you trust. It works once, until %s.\n", res.Expires.Format(time.DateTime))
	return err
}

func cmdAccept(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "accept")
	words, err := f.Words(args, 1, "one link")
	if err != nil {
		return err
	}
	var res contactStatus
	if err := call(ctx, f.Config, "accept", true, acceptArgs{Link: words[0]}, &res); err != nil {
		return err
	}
	fmt.Fprintln(e.Err, "Accepted. The other node answers on its own schedule; `node contacts` shows when it has.")
	return f.Show(e, res, func(w io.Writer) { fmt.Fprintln(w, res.State) })
}

func cmdContacts(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "contacts")
	if err := f.NoWords(args); err != nil {
		return err
	}
	var res []contactStatus
	if err := call(ctx, f.Config, "contacts", true, nil, &res); err != nil {
		return err
	}
	return f.Show(e, res, func(w io.Writer) { printContacts(w, res) })
}

func cmdForget(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "forget")
	words, err := f.Words(args, 1, "a contact's server name or a link's number, as `node contacts` shows them")
	if err != nil {
		return err
	}
	if err := call(ctx, f.Config, "forget", true, forgetArgs{Name: words[0]}, &struct{}{}); err != nil {
		return err
	}
	fmt.Fprintln(e.Err, "Forgotten, with its keys and what waited for it. The other node is not told.")
	return f.Show(e, forgetArgs{Name: words[0]}, func(io.Writer) {})
}

func cmdPresence(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "presence")
	undo := f.Bool("undo", false, "tell it no more")
	words, err := f.Words(args, 1, "a contact's server name, as `node contacts` shows it")
	if err != nil {
		return err
	}
	a := presenceArgs{words[0], *undo}
	if err := call(ctx, f.Config, "presence", true, a, &struct{}{}); err != nil {
		return err
	}
	if *undo {
		fmt.Fprintln(e.Err, "It is told no more who is online here and who types.")
	} else {
		fmt.Fprintln(e.Err, "It is told when users here are online, and when they type in rooms that you share. It learns from that when people sit at their screens; `node presence --undo` ends it.")
	}
	return f.Show(e, a, func(io.Writer) {})
}

func cmdMailboxAdd(_ context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "mailbox add")
	words, err := f.Words(args, 1, "the mailbox's line")
	if err != nil {
		return err
	}
	a, err := mailbox.ParseAddress(words[0])
	if err != nil {
		return err
	}
	if err := addMailbox(f.Config, a); err != nil {
		return err
	}
	fmt.Fprintln(e.Err, "Added to the configuration. A running node takes it up at its next start.")
	return nil
}

var mailboxesLine = regexp.MustCompile(`(?m)^mailboxes\s*=\s*\[([^\]]*)\]`)

// addMailbox writes one more address into the configuration file, leaving the rest as it is. What would make the file one
// that no node starts with is not written.
func addMailbox(file string, a mailbox.Address) error {
	cfg, err := loadConfig(file)
	if err != nil {
		return err
	}
	for _, m := range cfg.Mailboxes {
		if there, err := mailbox.ParseAddress(m); err == nil && there == a {
			return nil
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	line := a.String()
	m := mailboxesLine.FindSubmatchIndex(b)
	if m == nil {
		b = append([]byte(fmt.Sprintf("mailboxes = [%q]\n", line)), b...)
	} else {
		list := strings.TrimRight(strings.TrimSpace(string(b[m[2]:m[3]])), ",")
		if list != "" {
			list += ", "
		}
		b = []byte(string(b[:m[2]]) + list + fmt.Sprintf("%q", line) + string(b[m[3]:]))
	}
	cfg = configs.DefaultNode()
	if err := configs.Parse(file, string(b), &cfg); err != nil {
		return err
	}
	return durable.WriteFile(file, b, 0o600)
}

func cmdUserAdd(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "user add")
	stdin := f.Bool("password-stdin", false, "read the password from the first line of standard input (else one is made and printed)")
	words, err := f.Words(args, 1, "the new user's name")
	if err != nil {
		return err
	}
	a := userArgs{Name: words[0]}
	if *stdin {
		if a.Password, err = firstLine(e.In); err != nil {
			return err
		}
	}
	var res userResult
	if err := call(ctx, f.Config, "user add", true, a, &res); err != nil {
		return err
	}
	return f.Show(e, res, func(w io.Writer) { printUser(w, res) })
}

// firstLine reads at most 1,024 bytes.
func firstLine(r io.Reader) (string, error) {
	const most = 1024
	line, err := bufio.NewReader(io.LimitReader(r, most+1)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	if len(line) > most {
		return "", fmt.Errorf("the first line of standard input is longer than %d bytes", most)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

func printUser(w io.Writer, u userResult) {
	fmt.Fprintf(w, "user %s\n", u.User)
	if u.Password != "" {
		fmt.Fprintf(w, "password %s\n", u.Password)
	}
}

func cmdToken(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "token")
	life := f.Duration("life", 7*24*time.Hour, "how long the token is good for")
	if err := f.NoWords(args); err != nil {
		return err
	}
	var res tokenResult
	if err := call(ctx, f.Config, "token", true, tokenArgs{Life: *life}, &res); err != nil {
		return err
	}
	return f.Show(e, res, func(w io.Writer) { fmt.Fprintln(w, res.Token) })
}
