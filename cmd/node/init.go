// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"

	"tarn/account"
	"tarn/configs"
	"tarn/internal/cli"
	"tarn/internal/durable"
)

type initResult struct {
	Address   string     `json:"address"` // the server name
	ClientURL string     `json:"client_url"`
	Config    string     `json:"config"`
	User      userResult `json:"user,omitzero"`
	Token     string     `json:"registration_token"`
	Next      []string   `json:"next"`
}

type listFlag []string

func (l *listFlag) String() string     { return strings.Join(*l, " ") }
func (l *listFlag) Set(s string) error { *l = append(*l, s); return nil }

// cmdInit makes a node. Order of writes: seeds, then the database with the first user, then the configuration file,
// last: a crash before it leaves a directory without node.toml, on which init goes on with the same seeds.
func cmdInit(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "init")
	dir := f.String("dir", "", "where the node keeps everything (default: the folder of --config)")
	user := f.String("user", "", "name of the first user; \"-\": make none")
	stdin := f.Bool("password-stdin", false, "read the first user's password from the first line of standard input (else one is made and printed)")
	cfg := configs.DefaultNode()
	f.StringVar(&cfg.Client.Listen, "listen", cfg.Client.Listen, "address of the Client-Server API")
	f.BoolVar(&cfg.Client.OpenRegistration, "open-registration", false, "let anybody on this machine make an account")
	f.BoolVar(&cfg.Client.OpenMedia, "open-media", false, "give files without a token, for old clients")
	f.BoolVar(&cfg.Client.NoRateLimit, "no-rate-limit", false, "no limits on log-in attempts, for tests")
	cfg.Tor.Flags(f.FlagSet)
	f.StringVar(&cfg.Profile.Name, "profile", cfg.Profile.Name, "instant, balanced, economy, paranoid or custom")
	f.DurationVar(&cfg.Profile.Frame, "frame", cfg.Profile.Frame, "with --profile custom: mean time between frames")
	f.DurationVar(&cfg.Profile.Mix, "mix", cfg.Profile.Mix, "with --profile custom: mean delay asked of a courier")
	f.DurationVar(&cfg.Profile.Lag, "lag", cfg.Profile.Lag, "with --profile custom: time from a frame to its answer")
	f.DurationVar(&cfg.Profile.Push, "push", cfg.Profile.Push, "with --profile custom: time between two pushes of what is new")
	f.IntVar(&cfg.Profile.Digests, "digests", cfg.Profile.Digests, "with --profile custom: digest pages a frame")
	f.Float64Var(&cfg.Profile.CoverPut, "cover-put", cfg.Profile.CoverPut, "with --profile custom: share of idle slots that write cover")
	f.DurationVar(&cfg.Profile.AckDelay, "ack-delay", cfg.Profile.AckDelay, "with --profile custom: mean delay of a lone acknowledgement")
	f.DurationVar(&cfg.Profile.Rewrite, "rewrite", cfg.Profile.Rewrite, "with --profile custom: wait before a box is written again")
	f.StringVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error")
	var boxes listFlag
	f.Var(&boxes, "mailbox", "a mailbox's line, as `mailbox address` prints it; may be repeated")
	var couriers listFlag
	f.Var(&couriers, "courier", "the line of a mailbox that may carry this node's frames; may be repeated")
	if err := f.NoWords(args); err != nil {
		return err
	}
	cfg.Mailboxes = append(cfg.Mailboxes, boxes...)
	cfg.Couriers = append(cfg.Couriers, couriers...)
	file, err := f.NewConfig(program, *dir)
	if err != nil {
		return err
	}
	if err := cfg.Check(); err != nil {
		return err
	}
	if _, err := os.Stat(file); err == nil {
		return fmt.Errorf("%s exists already: there is a node here", file)
	}
	if *user == "" {
		if *user, err = askUser(e); err != nil {
			return err
		}
	}
	a := userArgs{Name: *user}
	if *stdin && *user != "-" {
		if a.Password, err = firstLine(e.In); err != nil {
			return err
		}
	}
	res, err := makeNode(ctx, cfg, file, a)
	if err != nil {
		return err
	}
	return f.Show(e, res, func(w io.Writer) { printInit(w, e.Err, res) })
}

// askUser asks the one question, on a terminal only.
func askUser(e cli.Env) (string, error) {
	if in, ok := e.In.(*os.File); !ok || !term.IsTerminal(int(in.Fd())) {
		return "", errors.New("--user NAME is needed when nobody can be asked (\"-\" for no user)")
	}
	fmt.Fprint(e.Err, "Name of the first user (like alice): ")
	line, err := bufio.NewReader(io.LimitReader(e.In, 300)).ReadString('\n')
	if err != nil {
		return "", err
	}
	if line = strings.TrimSpace(line); line == "" {
		return "-", nil
	}
	return line, nil
}

func makeNode(ctx context.Context, cfg configs.Node, file string, a userArgs) (res initResult, err error) {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return res, err
	}
	id, err := newIdentity(dir)
	if err != nil {
		return res, err
	}
	abs := cfg
	abs.DataDir = dir
	n, err := open(abs, io.Discard)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	if a.Name != "-" {
		res.User, err = n.addUser(a)
		if errors.Is(err, account.ErrUserInUse) { // made by an init that did not end, whose password nobody saw
			res.User, err = n.renewUser(a)
		}
		if err != nil {
			return res, fmt.Errorf("first user: %w", err)
		}
	}
	if res.Token, err = n.accounts.NewRegistrationToken(0); err != nil {
		return res, err
	}
	if err := durable.WriteFile(file, configs.RenderNode(cfg), 0o600); err != nil {
		return res, err
	}
	res.Address, res.ClientURL, res.Config = string(id.name), cfg.Client.URL(), file
	res.Next = program.Next(file, "run", "invite", "accept LINK")
	if len(cfg.Mailboxes) == 0 {
		res.Next = program.Next(file, "mailbox add LINE", "run", "invite")
	}
	return res, nil
}

func printInit(out, words io.Writer, r initResult) {
	fmt.Fprintf(out, "address %s\nclient %s\n", r.Address, r.ClientURL)
	if r.User.User != "" {
		printUser(out, r.User)
	}
	fmt.Fprintf(out, "token %s\n", r.Token)
	fmt.Fprint(words, "\nThe node is made. Its address is its name in Matrix; the client URL is the homeserver that you give to Element.\n")
	if r.User.Password != "" {
		fmt.Fprint(words, "Log in with the user and password above; they are shown only now.\n")
	}
	fmt.Fprint(words, "The token lets one more person register, once, within seven days.\n\nNext:\n")
	for _, c := range r.Next {
		fmt.Fprintf(words, "  %s\n", c)
	}
}

// newPassword is 80 random bits in an alphabet that is easy to type.
func newPassword() string { return rand.Text()[:16] }
