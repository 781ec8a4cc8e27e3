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
	"tarn/internal/durable"
	"tarn/mailbox/store"
	"tarn/onion"
)

type initResult struct {
	Address string   `json:"address"`
	Config  string   `json:"config"`
	Next    []string `json:"next"`
}

// cmdInit makes a mailbox. Order of writes: the seed, then the configuration file, last: a crash before it leaves a
// directory without mailbox.toml, on which init goes on with the same seed.
func cmdInit(_ context.Context, e env, args []string) error {
	f := newFlags(e, "init")
	cfg := configs.DefaultMailbox()
	dir := f.String("dir", "", "where the mailbox keeps everything (default: the folder of --config)")
	f.DurationVar(&cfg.TTL, "ttl", cfg.TTL, "how long a box is kept")
	f.Var(&cfg.Quota, "quota", "the most disk that boxes may take")
	f.Var(&cfg.Reserve, "reserve", "how much of the file system stays free")
	f.DurationVar(&cfg.ExpiryUnit, "expiry-unit", cfg.ExpiryUnit, "boxes are forgotten together, this much at a time")
	f.DurationVar(&cfg.DigestBucket, "digest-bucket", cfg.DigestBucket, "length of a piece of the public list of boxes")
	f.IntVar(&cfg.MaxConnections, "max-connections", cfg.MaxConnections, "connections served at once")
	f.IntVar(&cfg.PowRate, "pow-rate", cfg.PowRate, "connections a second from which tor asks for a proof of work; 0: never")
	f.StringVar(&cfg.LogLevel, "log-level", cfg.LogLevel, "debug, info, warn or error")
	f.StringVar(&cfg.Tor.Mode, "tor", cfg.Tor.Mode, "managed, attach or off")
	f.StringVar(&cfg.Tor.Program, "tor-program", cfg.Tor.Program, "the tor program")
	f.StringVar(&cfg.Tor.Control, "tor-control", "", "with --tor attach: tor's control socket or port")
	f.StringVar(&cfg.Tor.Socks, "tor-socks", "", "with --tor attach: tor's SOCKS socket or port")
	f.StringVar(&cfg.Tor.TorrcFile, "torrc", "", "a file with more torrc lines (a private network's)")
	if err := f.parse(args); err != nil {
		return err
	}
	file := f.config
	if *dir != "" {
		file = filepath.Join(*dir, configName)
	}
	file, err := filepath.Abs(file)
	if err != nil {
		return err
	}
	if cfg.Tor.TorrcFile != "" {
		if cfg.Tor.TorrcFile, err = filepath.Abs(cfg.Tor.TorrcFile); err != nil {
			return err
		}
	}
	if err := cfg.Check(); err != nil {
		return err
	}
	res, err := makeMailbox(cfg, file)
	if err != nil {
		return err
	}
	return f.show(e, res, func(w io.Writer) {
		fmt.Fprintln(w, res.Address)
		fmt.Fprintf(e.err, "\nThe mailbox is made: %s explains every setting. The line above is its address, to give to others.\n", res.Config)
		fmt.Fprintf(e.err, "Keep a copy of %s in a safe place: whoever has it is this mailbox.\n\nNext:\n", filepath.Join(filepath.Dir(res.Config), seedName))
		for _, c := range res.Next {
			fmt.Fprintf(e.err, "  %s\n", c)
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
	flag := ""
	if file != defaultConfig() {
		flag = " --config " + file
	}
	return initResult{
		Address: store.AddressOf(onion.KeyFromSeed(seed)).String(),
		Config:  file,
		Next:    []string{"mailbox run" + flag, "mailbox status" + flag, "mailbox address" + flag},
	}, nil
}
