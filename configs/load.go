// SPDX-License-Identifier: Apache-2.0

// Package configs holds the configuration of the programs: structs whose comments are the reference, and the sample
// files made from them.
//
// Problem: a misspelt key that is silently ignored (cover_putt = 1) is a privacy hole that nobody notices. So a file
// is read strictly: an unknown key, a value of the wrong kind and an impossible value are errors that name the line
// or the key. Invariants: what Load returns has passed Check; the sample files (node.toml, mailbox.toml) are
// generated from the comments (`go test ./configs -update`) and a test compares them.
package configs

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// Checker is a configuration that can tell whether its values are possible.
type Checker interface{ Check() error }

// Load reads the TOML file name over the defaults that c holds, strictly, and checks the result.
func Load(name string, c Checker) error {
	fi, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if fi.Size() > maxFile {
		return fmt.Errorf("configuration %s: larger than %d bytes", name, maxFile)
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	return decode(name, string(b), c)
}

// Parse is Load of a file's text that may not be written yet; name is for the errors.
func Parse(name, text string, c Checker) error { return decode(name, text, c) }

// Absolute makes paths that the configuration file holds absolute: they are relative to the file's folder.
func Absolute(file string, paths ...*string) error {
	base, err := filepath.Abs(filepath.Dir(file))
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	for _, p := range paths {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(base, *p)
		}
	}
	return nil
}

// Log is the program's log at a level that Check accepted ("debug", "info", "warn", "error").
func Log(w io.Writer, level string) *slog.Logger {
	l := slog.LevelInfo
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l}))
}

func decode(name, text string, c Checker) error {
	md, err := toml.Decode(text, c)
	if err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return fmt.Errorf("configuration %s, line %d: %s", name, pe.Position.Line, pe.Message)
		}
		return fmt.Errorf("configuration %s: %w", name, err)
	}
	for _, k := range md.Undecoded() {
		return fmt.Errorf("configuration %s, line %d: unknown key %q", name, lineOf(text, k), k)
	}
	if err := c.Check(); err != nil {
		return fmt.Errorf("configuration %s: %w", name, err)
	}
	return nil
}

// lineOf finds the line of a key (1-based; 0 if it is written in a form that is not looked for, such as an inline table).
func lineOf(text string, key toml.Key) int {
	table, last := strings.Join(key[:len(key)-1], "."), key[len(key)-1]
	whole := strings.Join(key, ".")
	at := ""
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if h, ok := strings.CutPrefix(line, "["); ok {
			at = strings.Trim(strings.TrimRight(strings.SplitN(h, "#", 2)[0], " \t"), "[] ")
			if at == whole {
				return i + 1
			}
			continue
		}
		k, _, ok := strings.Cut(line, "=")
		k = strings.Trim(strings.TrimSpace(k), `"'`)
		if ok && (at == table && k == last || at == "" && k == whole) {
			return i + 1
		}
	}
	return 0
}
