// SPDX-License-Identifier: Apache-2.0

// Command tornet runs a private Tor network on this computer until it is told to stop (Ctrl-C, SIGTERM).
//
//	tornet [--dir DIR] [--relays N] [-v]
//
// When clients can join (some 10 s), it prints one line on stdout: "ready DIR/client.torrc". That file holds the lines
// a client needs: name it in a node's or mailbox's configuration, or in the environment variable TARN_TORNET for tests.
// It is for tests and the demo: everything stays on 127.0.0.1, and there is no anonymity.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"tarn/onion/tornet"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "tornet:", err)
		os.Exit(1)
	}
}

// startLimit is far above the 12 s it takes: a machine may be busy.
const startLimit = 3 * time.Minute

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("tornet", flag.ContinueOnError)
	dir := fs.String("dir", "", "directory of all files (default: a temporary one, removed at the end)")
	relays := fs.Int("relays", 4, "relays, beside one authority (at least 3)")
	verbose := fs.Bool("v", false, "say more")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	if *dir == "" {
		tmp, err := os.MkdirTemp("", "tarn-tornet-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		*dir = tmp
	}
	path, err := filepath.Abs(filepath.Join(*dir, "client.torrc"))
	if err != nil {
		return err
	}
	// A file of an earlier run names ports that nobody listens on.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))

	fmt.Fprintln(os.Stderr, "starting a private Tor network on 127.0.0.1 (about 10 s) …")
	sctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	n, err := tornet.Start(sctx, tornet.Config{Dir: *dir, Relays: *relays, Log: log})
	if err != nil {
		return err
	}
	defer n.Close()
	if err := n.WriteClientTorrc(path); err != nil {
		return err
	}
	defer os.Remove(path)
	fmt.Println("ready", path)
	select {
	case <-ctx.Done():
		fmt.Fprintln(os.Stderr, "stopping")
		return nil
	case <-n.Done():
		return n.Err()
	}
}
