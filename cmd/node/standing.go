// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"

	"tarn/account"
	"tarn/internal/cli"
	"tarn/matrix"
)

type standingArgs struct {
	Name     string           `json:"name"`
	Standing account.Standing `json:"standing"`
}

// setStanding locks, suspends or frees a user.
func (n *node) setStanding(_ context.Context, a standingArgs) (standingArgs, error) {
	u, err := matrix.NewUserID(a.Name, n.id.name)
	if err != nil {
		return a, err
	}
	return a, n.accounts.SetStanding(u, a.Standing)
}

// cmdStanding makes the command that sets a user's standing.
func cmdStanding(name string, s account.Standing, done string) func(context.Context, cli.Env, []string) error {
	return func(ctx context.Context, e cli.Env, args []string) error {
		f := program.Flags(e, name)
		words, err := f.Words(args, 1, "the user's name")
		if err != nil {
			return err
		}
		a := standingArgs{Name: words[0], Standing: s}
		if err := call(ctx, f.Config, "user standing", true, a, &a); err != nil {
			return err
		}
		fmt.Fprintln(e.Err, done)
		return f.Show(e, a, func(io.Writer) {})
	}
}
