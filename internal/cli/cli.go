// SPDX-License-Identifier: Apache-2.0

// Package cli is the frame of a command-line program: subcommands, flags, results and exit codes.
//
// Problem: two programs that answer differently to the same wrong flag, or mix results with words, can not be used by
// scripts. Rule for words: results go to stdout (one fact a line, or JSON with --json), everything said to a person
// goes to stderr. Invariants: the exit codes below, for every command; flags and arguments in any order.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"tarn/internal/control"
)

// Exit codes.
const (
	ExitOK         = 0
	ExitError      = 1 // it did not work; stderr says why
	ExitUsage      = 2 // the command line is wrong
	ExitNotRunning = 3 // the program does not run, and the command needs it
)

// ErrUsage is a wrong command line; its text was written already.
var ErrUsage = errors.New("usage")

// Env is what a command may touch of the world.
type Env struct {
	In       io.Reader
	Out, Err io.Writer
}

// Command is one subcommand; its name may be of two words ("user add").
type Command struct {
	Name, Args, Does string
	Run              func(ctx context.Context, e Env, args []string) error
}

// Program is a command-line program whose data lies in a folder with a configuration file.
type Program struct {
	Name, Title string // "node", "Tarn node: …"
	ConfigName  string // "node.toml"
	Commands    []Command
}

// Main runs the process's command line and ends the process. Interrupt and SIGTERM end the command's context.
func (p *Program) Main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(p.run(ctx, Env{os.Stdin, os.Stdout, os.Stderr}, os.Args[1:]))
}

// run runs one command line and gives its exit code.
func (p *Program) run(ctx context.Context, e Env, args []string) int {
	commands := append(slices.Clone(p.Commands), Command{"version", "", "print the version", p.version})
	c, rest := find(commands, args)
	if c == nil {
		if len(args) > 0 { // "user" alone: show what begins with it
			if some := slices.DeleteFunc(slices.Clone(commands), func(c Command) bool { return !strings.HasPrefix(c.Name, args[0]+" ") }); len(some) > 0 {
				commands = some
			}
		}
		p.usage(e.Err, commands)
		switch {
		case len(args) == 0:
			return ExitUsage
		case slices.Contains([]string{"help", "-h", "--help"}, args[len(args)-1]):
			return ExitOK
		}
		fmt.Fprintf(e.Err, "\n%s: there is no command %q\n", p.Name, strings.Join(args[:min(2, len(args))], " "))
		return ExitUsage
	}
	err := c.Run(ctx, e, rest)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return ExitOK
	case errors.Is(err, ErrUsage):
		return ExitUsage
	case errors.Is(err, control.ErrNotRunning):
		fmt.Fprintf(e.Err, "%s %s: the %s is not running: start it with `%s run`\n", p.Name, c.Name, p.Name, p.Name)
		return ExitNotRunning
	}
	fmt.Fprintf(e.Err, "%s %s: %v\n", p.Name, c.Name, err)
	return ExitError
}

// find matches the one or two words of a command.
func find(commands []Command, args []string) (*Command, []string) {
	for i := range commands {
		c := &commands[i]
		if len(args) >= 1 && args[0] == c.Name {
			return c, args[1:]
		}
		if len(args) >= 2 && args[0]+" "+args[1] == c.Name {
			return c, args[2:]
		}
	}
	return nil, nil
}

func (p *Program) usage(w io.Writer, commands []Command) {
	fmt.Fprintf(w, "%s\n\nusage: %s COMMAND [--config FILE] [--json] …\n\n", p.Title, p.Name)
	for _, c := range commands {
		fmt.Fprintf(w, "  %-50s %s\n", c.Name+" "+c.Args, c.Does)
	}
	fmt.Fprintf(w, "\n`%s COMMAND --help` shows a command's flags. Exit codes: 0 done, 1 failed, 2 wrong command line, 3 not running.\n", p.Name)
}

// DefaultConfig is the configuration file unless the command line says otherwise.
func (p *Program) DefaultConfig() string {
	dir := "tarn-" + p.Name
	if d := os.Getenv("XDG_DATA_HOME"); d != "" {
		dir = filepath.Join(d, dir)
	} else if home, err := os.UserHomeDir(); err == nil {
		dir = filepath.Join(home, ".local", "share", dir)
	}
	return filepath.Join(dir, p.ConfigName)
}

// Flags is a command's flag set with the flags that all commands share.
type Flags struct {
	*flag.FlagSet
	Config string // --config
	JSON   bool   // --json
}

// Flags begins a command's flags.
func (p *Program) Flags(e Env, command string) *Flags {
	f := &Flags{FlagSet: flag.NewFlagSet(p.Name+" "+command, flag.ContinueOnError)}
	f.SetOutput(e.Err)
	f.StringVar(&f.Config, "config", p.DefaultConfig(), "the "+p.Name+"'s configuration file")
	f.BoolVar(&f.JSON, "json", false, "print the result as JSON")
	return f
}

// Words reads the flags and the other arguments, in any order; there must be n of these, or what says what is needed.
func (f *Flags) Words(args []string, n int, what string) ([]string, error) {
	return f.WordsBetween(args, n, n, what)
}

// WordsBetween is Words for a command that takes from least to most other arguments.
func (f *Flags) WordsBetween(args []string, least, most int, what string) ([]string, error) {
	var words []string
	for {
		if err := f.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, ErrUsage
		}
		if f.NArg() == 0 {
			break
		}
		words = append(words, f.Arg(0))
		args = f.Args()[1:]
	}
	if len(words) < least || len(words) > most {
		fmt.Fprintf(f.Output(), "%s needs %s\n", f.Name(), what)
		return nil, ErrUsage
	}
	return words, nil
}

// NoWords reads the flags of a command that takes no other arguments.
func (f *Flags) NoWords(args []string) error {
	_, err := f.Words(args, 0, "no arguments besides flags")
	return err
}

// NewConfig is where `init` puts the configuration: in dir, or where --config says; absolute.
func (f *Flags) NewConfig(p *Program, dir string) (string, error) {
	if dir != "" {
		return filepath.Abs(filepath.Join(dir, p.ConfigName))
	}
	return filepath.Abs(f.Config)
}

// Next are command lines for a person to type next, with --config where the file is not the default one.
func (p *Program) Next(config string, commands ...string) []string {
	for i, c := range commands {
		name, args, _ := cutCommand(p.Commands, c)
		line := p.Name + " " + name
		if config != p.DefaultConfig() {
			line += " --config " + config
		}
		if args != "" {
			line += " " + args
		}
		commands[i] = line
	}
	return commands
}

// cutCommand splits "accept LINK" into the command's name and the rest.
func cutCommand(commands []Command, line string) (name, args string, ok bool) {
	for _, c := range commands {
		if line == c.Name {
			return line, "", true
		}
		if len(line) > len(c.Name) && line[:len(c.Name)+1] == c.Name+" " {
			return c.Name, line[len(c.Name)+1:], true
		}
	}
	return line, "", false
}

// Show prints a result: as JSON, or in words.
func (f *Flags) Show(e Env, result any, words func(w io.Writer)) error {
	if !f.JSON {
		words(e.Out)
		return nil
	}
	enc := json.NewEncoder(e.Out)
	enc.SetIndent("", "  ")
	return enc.Encode(result)
}

// DiskFree is how many bytes of the file system that holds dir an ordinary user may still take.
func DiskFree(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

func (p *Program) version(_ context.Context, e Env, args []string) error {
	f := p.Flags(e, "version")
	if err := f.NoWords(args); err != nil {
		return err
	}
	v := version()
	return f.Show(e, map[string]string{"version": v}, func(w io.Writer) { fmt.Fprintln(w, v) })
}

// version is the commit's that was built, or the module's.
func version() string {
	bi, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range bi.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	return bi.Main.Version
}
