// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"tarn/internal/control"
)

func program() *Program {
	p := &Program{Name: "pot", Title: "Pot: boils.", ConfigName: "pot.toml"}
	p.Commands = []Command{
		{"boil", "WATER", "boil water", func(_ context.Context, e Env, args []string) error {
			f := p.Flags(e, "boil")
			hot := f.Bool("hot", false, "very")
			words, err := f.Words(args, 1, "water")
			if err != nil {
				return err
			}
			return f.Show(e, map[string]any{"water": words[0], "hot": *hot}, func(w io.Writer) { fmt.Fprintln(w, words[0], *hot) })
		}},
		{"lid add", "", "cover it", func(context.Context, Env, []string) error { return errors.New("no lid") }},
		{"taste", "", "", func(context.Context, Env, []string) error { return control.ErrNotRunning }},
	}
	return p
}

func TestExitCodesAndStreams(t *testing.T) {
	for _, c := range []struct {
		line        string
		code        int
		out, errOut string
	}{
		{"boil tap --hot", ExitOK, "tap true\n", ""},
		{"boil --hot tap", ExitOK, "tap true\n", ""},
		{"boil tap --json", ExitOK, "\"water\": \"tap\"", ""},
		{"boil", ExitUsage, "", "pot boil needs water"},
		{"boil a b", ExitUsage, "", "needs water"},
		{"boil --cold x", ExitUsage, "", "cold"},
		{"boil --help", ExitOK, "", "-hot"},
		{"lid add", ExitError, "", "pot lid add: no lid"},
		{"taste", ExitNotRunning, "", "start it with `pot run`"},
		{"", ExitUsage, "", "usage: pot COMMAND"},
		{"help", ExitOK, "", "boil water"},
		{"lid", ExitUsage, "", "usage"},
		{"lid", ExitUsage, "", `no command "lid"`},
		{"lid --help", ExitOK, "", "cover it"},
		{"lid off", ExitUsage, "", `no command "lid off"`},
		{"soup", ExitUsage, "", `no command "soup"`},
		{"version", ExitOK, "\n", ""},
	} {
		var out, words bytes.Buffer
		code := program().run(t.Context(), Env{nil, &out, &words}, strings.Fields(c.line))
		if code != c.code || !strings.Contains(out.String(), c.out) || c.out == "" && out.Len() > 0 || !strings.Contains(words.String(), c.errOut) {
			t.Errorf("pot %s: exit %d, out %q, words %q", c.line, code, out.String(), words.String())
		}
	}
}

func TestNextLinesNameTheConfigurationWhereNeeded(t *testing.T) {
	p := program()
	if got := p.Next("/x/pot.toml", "boil WATER", "lid add"); got[0] != "pot boil --config /x/pot.toml WATER" || got[1] != "pot lid add --config /x/pot.toml" {
		t.Fatalf("%q", got)
	}
	if got := p.Next(p.DefaultConfig(), "boil WATER"); got[0] != "pot boil WATER" {
		t.Fatalf("%q", got)
	}
}
