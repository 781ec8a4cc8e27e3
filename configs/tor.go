// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"tarn/onion"
)

// Tor says how the program reaches the Tor network: the only way out that it has.
type Tor struct {
	// "managed": the program starts a tor process of its own (the Debian package tor is enough).
	// "attach": it uses a tor that runs already, through control and socks below.
	// "off": no network at all. A node still serves its clients on loopback; nothing leaves and nothing arrives.
	Mode string `toml:"mode"`
	// The tor program, for managed. A name without a slash is looked up in PATH.
	Program string `toml:"program"`
	// The control socket or port of the running tor, for attach: "unix:/run/tor/control" or "127.0.0.1:9051".
	// The user that runs this program must be able to read tor's cookie file.
	Control string `toml:"control"`
	// The SOCKS socket or port of the running tor, for attach: "unix:/run/tor/socks" or "127.0.0.1:9050".
	Socks string `toml:"socks"`
	// A file with more torrc lines, for managed: a private network's, as `go run ./cmd/tornet` prints it.
	TorrcFile string `toml:"torrc_file"`
	// Bridge lines as https://bridges.torproject.org gives them, for managed, where Tor is blocked.
	Bridges []string `toml:"bridges"`
}

// defaultTor is a tor process of our own.
func defaultTor() Tor { return Tor{Mode: "managed", Program: "tor", Bridges: []string{}} }

// Check that the values are possible together.
func (t Tor) Check() error {
	switch t.Mode {
	case "managed":
		if t.Program == "" {
			return fmt.Errorf("tor.program is empty")
		}
	case "attach":
		if t.Control == "" || t.Socks == "" {
			return fmt.Errorf(`tor.mode is "attach": tor.control and tor.socks must say where tor listens`)
		}
	case "off":
	default:
		return fmt.Errorf(`tor.mode is %q: it can be "managed", "attach" or "off"`, t.Mode)
	}
	return nil
}

// Flags adds the flags that set these values.
func (t *Tor) Flags(f *flag.FlagSet) {
	f.StringVar(&t.Mode, "tor", t.Mode, "managed, attach or off")
	f.StringVar(&t.Program, "tor-program", t.Program, "the tor program")
	f.StringVar(&t.Control, "tor-control", "", "with --tor attach: tor's control socket or port")
	f.StringVar(&t.Socks, "tor-socks", "", "with --tor attach: tor's SOCKS socket or port")
	f.Func("torrc", "a file with more torrc lines (a private network's)", func(name string) (err error) {
		t.TorrcFile, err = filepath.Abs(name)
		return err
	})
}

// Onion is package onion's form of these values, with its data in dir. It errs if TorrcFile cannot be read.
func (t Tor) Onion(dir string, log *slog.Logger) (onion.Config, error) {
	c := onion.Config{Mode: onion.Mode(t.Mode), Dir: dir, TorPath: t.Program, SocksAddr: t.Socks, Bridges: t.Bridges, Log: log}
	if path, ok := strings.CutPrefix(t.Control, "unix:"); ok {
		c.ControlSocket = path
	} else {
		c.ControlAddr = t.Control
	}
	if t.TorrcFile == "" || t.Mode != "managed" {
		return c, nil
	}
	b, err := os.ReadFile(t.TorrcFile)
	if err != nil {
		return c, fmt.Errorf("tor.torrc_file: %w", err)
	}
	c.Torrc = strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return c, nil
}
