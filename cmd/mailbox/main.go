// SPDX-License-Identifier: Apache-2.0

// Command mailbox keeps sealed boxes for nodes that are not on at the same time, as a Tor onion service. It learns
// nothing that names anybody; anybody can host one.
//
// This folder holds wiring and subcommands only: what a mailbox does is in package mailbox/store. Rule for words:
// results go to stdout (one fact a line, or JSON with --json), everything said to a person goes to stderr.
//
// Data, under data_dir: mailbox.toml (the configuration), onion.seed (the identity: whoever has it is this mailbox),
// LOCK, control.sock (while it runs), store/ (package mailbox/store), tor/ (package onion).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"tarn/internal/control"
)

// Exit codes.
const (
	exitOK         = 0
	exitError      = 1 // it did not work; stderr says why
	exitUsage      = 2 // the command line is wrong
	exitNotRunning = 3 // the mailbox does not run, and the command needs it
)

// errUsage is a wrong command line; its text was written already.
var errUsage = errors.New("usage")

// env is what a command may touch of the world.
type env struct{ out, err io.Writer }

type command struct {
	name, args, does string
	run              func(ctx context.Context, e env, args []string) error
}

var commands = []command{
	{"init", "[--dir DIR] [--ttl 336h] [--quota 10GiB] …", "make a new mailbox", cmdInit},
	{"run", "", "run it until Ctrl-C", cmdRun},
	{"address", "[--no-qr]", "print the line to give to others, and its QR code", cmdAddress},
	{"status", "", "show Tor, boxes, bytes and quota of the running mailbox", cmdStatus},
	{"version", "", "print the version", cmdVersion},
}

func main() {
	// A mailbox's memory is mostly buffers that are used again: collecting at 50 % growth costs little and halves the rest.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(realMain(ctx, env{os.Stdout, os.Stderr}, os.Args[1:]))
}

// realMain runs one command line and gives its exit code.
func realMain(ctx context.Context, e env, args []string) int {
	for _, c := range commands {
		if len(args) == 0 || args[0] != c.name {
			continue
		}
		err := c.run(ctx, e, args[1:])
		switch {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return exitOK
		case errors.Is(err, errUsage):
			return exitUsage
		case errors.Is(err, control.ErrNotRunning):
			fmt.Fprintf(e.err, "mailbox %s: the mailbox is not running: start it with `mailbox run`\n", c.name)
			return exitNotRunning
		}
		fmt.Fprintf(e.err, "mailbox %s: %v\n", c.name, err)
		return exitError
	}
	usage(e.err)
	if len(args) == 1 && (args[0] == "help" || args[0] == "-h" || args[0] == "--help") {
		return exitOK
	}
	return exitUsage
}

func usage(w io.Writer) {
	fmt.Fprint(w, "Tarn mailbox: keeps sealed boxes for others, and learns nothing by it.\n\nusage: mailbox COMMAND [--config FILE] [--json] …\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  %-52s %s\n", c.name+" "+c.args, c.does)
	}
	fmt.Fprint(w, "\n`mailbox COMMAND --help` shows a command's flags. Exit codes: 0 done, 1 failed, 2 wrong command line, 3 not running.\n")
}

// flags is a command's flag set with the flags that all share.
type flags struct {
	*flag.FlagSet
	config string
	json   bool
}

func newFlags(e env, name string) *flags {
	f := &flags{FlagSet: flag.NewFlagSet("mailbox "+name, flag.ContinueOnError)}
	f.SetOutput(e.err)
	f.StringVar(&f.config, "config", defaultConfig(), "the mailbox's configuration file")
	f.BoolVar(&f.json, "json", false, "print the result as JSON")
	return f
}

// parse reads the flags; no command has other arguments.
func (f *flags) parse(args []string) error {
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if f.NArg() > 0 {
		fmt.Fprintf(f.Output(), "%s needs no arguments besides flags\n", f.Name())
		return errUsage
	}
	return nil
}

// show prints a result: words, or JSON.
func (f *flags) show(e env, result any, words func(w io.Writer)) error {
	if !f.json {
		words(e.out)
		return nil
	}
	enc := json.NewEncoder(e.out)
	enc.SetIndent("", "  ")
	return enc.Encode(result)
}

func cmdVersion(_ context.Context, e env, args []string) error {
	f := newFlags(e, "version")
	if err := f.parse(args); err != nil {
		return err
	}
	v := "unknown"
	if bi, ok := debug.ReadBuildInfo(); ok {
		v = bi.Main.Version
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				v = s.Value[:12]
			}
		}
	}
	return f.show(e, map[string]string{"version": v}, func(w io.Writer) { fmt.Fprintln(w, v) })
}
