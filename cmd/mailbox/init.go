// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"tarn/configs"
	"tarn/internal/cli"
	"tarn/internal/durable"
	"tarn/mailbox/front"
	"tarn/onion"
)

type initResult struct {
	Address string   `json:"address"`
	Config  string   `json:"config"`
	Next    []string `json:"next"`
}

// cmdInit makes a mailbox. Order of writes: the seed, then the configuration file, last: a crash before it leaves a
// directory without mailbox.toml, on which init goes on with the same seed.
func cmdInit(_ context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "init")
	cfg := configs.DefaultMailbox()
	dir := f.String("dir", "", "where the mailbox keeps everything (default: the folder of --config)")
	f.DurationVar(&cfg.TTL, "ttl", cfg.TTL, "how long a box is kept")
	f.StringVar(&cfg.Deposit, "deposit", cfg.Deposit, "what a deposit needs: tokens or open")
	f.Var(&cfg.Quota, "quota", "the most disk that boxes may take")
	f.Var(&cfg.Reserve, "reserve", "how much of the file system stays free")
	f.DurationVar(&cfg.ExpiryUnit, "expiry-unit", cfg.ExpiryUnit, "boxes are forgotten together, this much at a time")
	f.DurationVar(&cfg.DigestBucket, "digest-bucket", cfg.DigestBucket, "length of a piece of the public list of boxes")
	f.BoolVar(&cfg.Store, "store", cfg.Store, "keep boxes")
	f.BoolVar(&cfg.Courier, "courier", cfg.Courier, "carry the requests of nodes")
	f.StringVar(&cfg.Family, "family", cfg.Family, "a label that all your mailboxes share")
	f.IntVar(&cfg.Ponds, "ponds", cfg.Ponds, "addresses, each with boxes of its own")
	f.IntVar(&cfg.MaxSessions, "max-sessions", cfg.MaxSessions, "sessions of nodes at once")
	f.IntVar(&cfg.MaxFrames, "max-frames", cfg.MaxFrames, "frames a second that one session may have")
	f.IntVar(&cfg.MaxLinks, "max-links", cfg.MaxLinks, "links with other mailboxes at once")
	f.IntVar(&cfg.MaxConnections, "max-connections", cfg.MaxConnections, "connections served at once")
	f.IntVar(&cfg.PowRate, "pow-rate", cfg.PowRate, "connections a second from which tor asks for a proof of work; 0: never")
	f.StringVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error")
	cfg.Tor.Flags(f.FlagSet)
	if err := f.NoWords(args); err != nil {
		return err
	}
	file, err := f.NewConfig(program, *dir)
	if err != nil {
		return err
	}
	if cfg.ReservedSessions = min(cfg.ReservedSessions, cfg.MaxSessions/2); !cfg.Store || cfg.Deposit == "open" {
		cfg.ReservedSessions = 0 // nobody gives session tokens
	}
	if err := cfg.Check(); err != nil {
		return err
	}
	res, err := makeMailbox(cfg, file)
	if err != nil {
		return err
	}
	return f.Show(e, res, func(w io.Writer) {
		fmt.Fprintln(w, res.Address)
		fmt.Fprintf(e.Err, "\nThe mailbox is made: %s explains every setting. The line above is its address, to give to others.\n", res.Config)
		fmt.Fprintf(e.Err, "Keep a copy of %s in a safe place: whoever has it is this mailbox.\n\nNext:\n", filepath.Join(filepath.Dir(res.Config), seedName))
		for _, c := range res.Next {
			fmt.Fprintf(e.Err, "  %s\n", c)
		}
	})
}

func makeMailbox(cfg configs.Mailbox, file string) (res initResult, err error) {
	dir := filepath.Dir(file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return res, err
	}
	unlock, err := durable.Lock(dir)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if _, err := os.Stat(file); err == nil {
		return res, fmt.Errorf("%s exists already: there is a mailbox here", file)
	}
	seed, err := onion.LoadOrCreateSeed(filepath.Join(dir, seedName))
	if err != nil {
		return res, err
	}
	if err := durable.WriteFile(file, configs.RenderMailbox(cfg), 0o600); err != nil {
		return res, err
	}
	return initResult{
		Address: front.AddressOf(onion.KeyFromSeed(seed)).String(),
		Config:  file,
		Next:    program.Next(file, "run", "status", "address"),
	}, nil
}
