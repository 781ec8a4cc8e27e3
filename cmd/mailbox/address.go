// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"tarn/internal/cli"

	"tarn/internal/termqr"
	"tarn/mailbox/front"
)

// cmdAddress prints the line that others need; the mailbox need not run.
func cmdAddress(_ context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "address")
	noQR := f.Bool("no-qr", false, "do not draw a QR code")
	if err := f.NoWords(args); err != nil {
		return err
	}
	cfg, err := loadConfig(f.Config)
	if err != nil {
		return err
	}
	key, err := loadKey(cfg.DataDir)
	if err != nil {
		return err
	}
	line := front.AddressOf(key).String()
	err = f.Show(e, map[string]string{"address": line}, func(w io.Writer) { fmt.Fprintln(w, line) })
	if err == nil && !f.JSON && !*noQR {
		err = termqr.Write(e.Err, line)
	}
	return err
}
