// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"tarn/internal/termqr"
	"tarn/mailbox/store"
)

// cmdAddress prints the line that others need; the mailbox need not run.
func cmdAddress(_ context.Context, e env, args []string) error {
	f := newFlags(e, "address")
	noQR := f.Bool("no-qr", false, "do not draw a QR code")
	if err := f.parse(args); err != nil {
		return err
	}
	cfg, err := loadConfig(f.config)
	if err != nil {
		return err
	}
	key, err := loadKey(cfg.DataDir)
	if err != nil {
		return err
	}
	line := store.AddressOf(key).String()
	err = f.show(e, map[string]string{"address": line}, func(w io.Writer) { fmt.Fprintln(w, line) })
	if err == nil && !f.json && !*noQR {
		err = termqr.Write(e.err, line)
	}
	return err
}
