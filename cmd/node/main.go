// SPDX-License-Identifier: Apache-2.0

// Command node is a Matrix homeserver for one person or family that reaches other homeservers only through mailboxes
// on Tor onion services.
//
// This folder holds wiring and subcommands only: what a node does is in the packages that open (node.go) puts
// together. Rule for words: results go to stdout (one fact a line, or JSON with --json), everything said to a person
// goes to stderr, plain and without names of users or rooms where a log could keep it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"tarn/internal/control"
)

// Exit codes.
const (
	exitOK         = 0
	exitError      = 1 // it did not work; stderr says why
	exitUsage      = 2 // the command line is wrong
	exitNotRunning = 3 // the node does not run, and the command needs it
)

// errUsage is a wrong command line; its text was written already.
var errUsage = errors.New("usage")

type command struct {
	name, args, does string
	run              func(ctx context.Context, e env, args []string) error
}

// env is what a command may touch of the world, so that tests can give it another.
type env struct {
	in       io.Reader
	out, err io.Writer
}

var commands = []command{
	{"init", "[--dir DIR] [--user NAME] …", "make a new node", cmdInit},
	{"run", "", "run the node until Ctrl-C", cmdRun},
	{"status", "", "show Tor, mailboxes and contacts", cmdStatus},
	{"invite", "[--life 168h]", "print a link that makes one other node a contact", cmdInvite},
	{"accept", "LINK", "accept another node's link", cmdAccept},
	{"contacts", "", "list the contacts", cmdContacts},
	{"mailbox add", "LINE", "use a mailbox: the line that `mailbox address` prints", cmdMailboxAdd},
	{"user add", "NAME [--password-stdin]", "make an account", cmdUserAdd},
	{"token", "[--life 168h]", "print a one-time token with which one person can register", cmdToken},
	{"version", "", "print the version", cmdVersion},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(realMain(ctx, env{os.Stdin, os.Stdout, os.Stderr}, os.Args[1:]))
}

// realMain runs one command line and gives its exit code.
func realMain(ctx context.Context, e env, args []string) int {
	c, rest := find(args)
	if c == nil {
		usage(e.err)
		if len(args) == 1 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help") {
			return exitOK
		}
		return exitUsage
	}
	err := c.run(ctx, e, rest)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.Is(err, errUsage):
		return exitUsage
	case errors.Is(err, control.ErrNotRunning):
		fmt.Fprintf(e.err, "node %s: the node is not running: start it with `node run`\n", c.name)
		return exitNotRunning
	}
	fmt.Fprintf(e.err, "node %s: %v\n", c.name, err)
	return exitError
}

// find matches the one or two words of a command.
func find(args []string) (*command, []string) {
	for i := range commands {
		c := &commands[i]
		if len(args) >= 1 && args[0] == c.name {
			return c, args[1:]
		}
		if len(args) >= 2 && args[0]+" "+args[1] == c.name {
			return c, args[2:]
		}
	}
	return nil, nil
}

func usage(w io.Writer) {
	fmt.Fprint(w, "Tarn node: a Matrix homeserver whose metadata stays yours.\n\nusage: node COMMAND [--config FILE] [--json] …\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  %-36s %s\n", c.name+" "+c.args, c.does)
	}
	fmt.Fprint(w, "\n`node COMMAND --help` shows a command's flags. Exit codes: 0 done, 1 failed, 2 wrong command line, 3 not running.\n")
}

// flags is a command's flag set with the flags that all share.
type flags struct {
	*flag.FlagSet
	config string
	json   bool
}

func newFlags(e env, name string) *flags {
	f := &flags{FlagSet: flag.NewFlagSet("node "+name, flag.ContinueOnError)}
	f.SetOutput(e.err)
	f.StringVar(&f.config, "config", defaultConfig(), "the node's configuration file")
	f.BoolVar(&f.json, "json", false, "print the result as JSON")
	return f
}

// parse reads flags and exactly n other arguments, in any order.
func (f *flags) parse(args []string, n int, what string) ([]string, error) {
	var words []string
	for {
		if err := f.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, errUsage
		}
		if f.NArg() == 0 {
			break
		}
		words = append(words, f.Arg(0))
		args = f.Args()[1:]
	}
	if len(words) != n {
		fmt.Fprintf(f.Output(), "%s needs %s\n", f.Name(), what)
		return nil, errUsage
	}
	return words, nil
}
