// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"tarn/internal/cli"

	"tarn/internal/termqr"
	"tarn/mailbox/front"
)

// cmdAddress prints the line that others need, one for each pond; the mailbox need not run.
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
	keys, err := pondKeys(cfg)
	if err != nil {
		return err
	}
	var lines []string
	for _, k := range keys {
		lines = append(lines, front.AddressOf(k).String())
	}
	err = f.Show(e, map[string]any{"address": lines[0], "addresses": lines}, func(w io.Writer) { fmt.Fprintln(w, strings.Join(lines, "\n")) })
	if err == nil && !f.JSON && !*noQR {
		for _, l := range lines {
			err = errors.Join(err, termqr.Write(e.Err, l))
		}
	}
	return err
}
