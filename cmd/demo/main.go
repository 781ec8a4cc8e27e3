// SPDX-License-Identifier: Apache-2.0

// Command demo shows Tarn whole on one machine, with the real programs: a private Tor network on loopback, four
// mailboxes, three nodes, and an ordinary Matrix client library (mautrix-go) at each node.
//
// It introduces the nodes, lets two clients hold a conversation, with one node off for a part of it and with a mailbox of each
// kind and both nodes killed, measures with a quick schedule how long a message takes, lets a third one in who is a contact of
// one of them alone, loses a node with all that it wrote and makes it again from a backup, prints the transcript with the time
// that each message took, and then stays up, so that a person can log in with Element. With --check it ends after the
// transcript, with exit status 0 only if every message stands exactly once and in order in both timelines, and nothing that
// names anybody is in the mailbox's data or in a log. With --delivery it measures, and ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"tarn/internal/durable"
)

func main() {
	check := flag.Bool("check", false, "end after the transcript; exit status 0 only if everything arrived exactly once and in order")
	dir := flag.String("dir", "build/demo", "where everything is kept; emptied first")
	bin := flag.String("bin", "build/bin", "the folder of the programs node, mailbox and tornet")
	times := flag.Int("delivery", 0, "measure only how long so many messages take each way, with a frame each 100 ms")
	limit := flag.Duration("limit", 15*time.Minute, "give up after this time (with --check or --delivery)")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q; `demo --help` shows the flags\n", flag.Arg(0))
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *check || *times > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, *limit)
		defer cancel()
	}
	if err := run(ctx, *dir, *bin, *check, *times); err != nil && !(errors.Is(err, context.Canceled) && !*check) {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, bin string, check bool, times int) (err error) {
	start := time.Now()
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	unlock, err := empty(dir)
	if err != nil {
		return err
	}
	defer unlock()
	s := &stage{dir: dir, bin: bin, start: start}
	defer func() {
		s.close()
		if err != nil {
			s.printLogs()
		}
	}()
	if err := s.build(ctx); err != nil {
		return err
	}
	p := newPlay(s, times)
	if err := p.perform(ctx); err != nil || times > 0 {
		return err
	}
	if err := p.verify(ctx); err != nil {
		return err
	}
	if check {
		fmt.Println("\nEvery message arrived exactly once and in order; nobody is named in a mailbox or in a log.")
		return nil
	}
	s.invitePerson()
	<-ctx.Done()
	return nil
}

// empty takes a folder for this demo and removes what an earlier one left; not under one that still runs.
func empty(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if unlock, err = durable.Lock(dir); err != nil {
		return nil, err
	}
	old, err := os.ReadDir(dir)
	for _, e := range old {
		if err == nil && e.Name() != "LOCK" {
			err = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}
