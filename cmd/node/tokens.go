// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"tarn/internal/cli"
)

type cutArgs struct {
	Name string `json:"name"`
	Undo bool   `json:"undo,omitempty"`
}

type tokensResult struct {
	Mailboxes []mailboxTokens `json:"mailboxes"`
	Cut       []string        `json:"cut,omitempty"` // contacts that are given no more
}

type mailboxTokens struct {
	Address string `json:"address"`
	Own     bool   `json:"own"`
	Today   int    `json:"today"`
	Account string `json:"account,omitempty"`
	Problem string `json:"problem,omitempty"`
}

func (n *node) cut(_ context.Context, a cutArgs) (struct{}, error) {
	return struct{}{}, n.engine.Cut(a.Name, !a.Undo)
}

func (n *node) tokens() tokensResult {
	stores, cut := n.engine.Tokens()
	res := tokensResult{Mailboxes: []mailboxTokens{}}
	for _, s := range stores {
		res.Mailboxes = append(res.Mailboxes, mailboxTokens{s.Address.String(), s.Own, s.Today, s.Account, s.Problem})
	}
	for _, c := range cut {
		res.Cut = append(res.Cut, string(c))
	}
	return res
}

func cmdTokens(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "tokens")
	if err := f.NoWords(args); err != nil {
		return err
	}
	var res tokensResult
	if err := call(ctx, f.Config, "tokens", false, nil, &res); err != nil {
		return err
	}
	return f.Show(e, res, func(w io.Writer) {
		if len(res.Mailboxes) == 0 {
			fmt.Fprintln(w, "No mailbox that is known yet wants tokens.")
		}
		for _, m := range res.Mailboxes {
			whose := "a contact's"
			if m.Own {
				whose = "ours"
			}
			fmt.Fprintf(w, "mailbox   %s (%s)\n          %d tokens for today\n", m.Address, whose, m.Today)
			if m.Problem != "" {
				fmt.Fprintf(w, "          %s\n", m.Problem)
			}
			if m.Account != "" {
				fmt.Fprintf(w, "          account %s\n", m.Account)
			}
		}
		if len(res.Cut) > 0 {
			fmt.Fprintf(w, "cut off   %s\n", strings.Join(res.Cut, "\n          "))
		}
	})
}

func cmdCut(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "cut")
	undo := f.Bool("undo", false, "give it tokens again")
	words, err := f.Words(args, 1, "a contact's server name, as `node contacts` shows it")
	if err != nil {
		return err
	}
	a := cutArgs{words[0], *undo}
	if err := call(ctx, f.Config, "cut", true, a, &struct{}{}); err != nil {
		return err
	}
	if *undo {
		fmt.Fprintln(e.Err, "It is given tokens again.")
	} else {
		fmt.Fprintln(e.Err, "Cut off: it is given no more tokens for your mailboxes. Those that it has are good for two weeks at most. The other node is not told.")
	}
	return f.Show(e, a, func(io.Writer) {})
}
