// SPDX-License-Identifier: Apache-2.0

package onion

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Mode says where tor comes from.
type Mode string

// The modes.
const (
	Managed Mode = "managed" // a tor process of our own, which ends with us (the default)
	Attach  Mode = "attach"  // a running tor, through its control port
	Off     Mode = "off"     // none: everything errs with ErrOff
)

// ErrConfig: a Config that cannot work. [Tor.Run] returns it at once; everything else it tries again.
var ErrConfig = errors.New("tor configuration")

// Config says how to reach the Tor network. The zero Mode is Managed.
type Config struct {
	Mode Mode

	// Dir belongs to this package (managed): tor's state lies there, and services' sockets. Created, mode 0700.
	// In attach mode it is not used.
	Dir string

	// TorPath is the tor program (managed). Empty: "tor" in PATH, then where systems put it outside of a user's PATH.
	TorPath string

	// ControlSocket (a unix socket) or ControlAddr (loopback host:port) is where the running tor listens (attach).
	// It must let us in by cookie, without any proof, or by ControlPassword.
	ControlSocket   string
	ControlAddr     string
	ControlPassword string

	// SocksAddr is the running tor's SOCKS port (attach): a loopback "127.0.0.1:9050" or "unix:/path".
	// Empty: tor is asked.
	SocksAddr string

	// Torrc are more lines for tor's configuration (managed), for instance those of a private test network.
	Torrc []string

	// TorrcFile is a file of more such lines (managed), read at each start of tor; cmd/tornet writes one.
	TorrcFile string

	// Bridges are bridge lines as the Tor Project gives them out, without the word "Bridge" (managed): where tor is
	// blocked. "obfs4 …" and "snowflake …" need the programs obfs4proxy (or lyrebird) and snowflake-client.
	Bridges []string

	// Log gets what happens: states at Info, troubles at Warn, tor's own words at Debug. nil: nothing.
	Log *slog.Logger
}

func (c *Config) check() error {
	if c.Mode == "" {
		c.Mode = Managed
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	bad := func(f string, a ...any) error { return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(f, a...)) }
	switch c.Mode {
	case Off:
	case Managed:
		if c.Dir == "" {
			return bad("managed mode needs a directory")
		}
		abs, err := filepath.Abs(c.Dir)
		if err != nil {
			return bad("directory: %v", err)
		}
		c.Dir = abs
		for _, l := range append(append([]string(nil), c.Torrc...), c.Bridges...) {
			if strings.ContainsAny(l, "\r\n\x00") {
				return bad("a line of torrc or a bridge contains a line break")
			}
		}
	case Attach:
		if (c.ControlSocket == "") == (c.ControlAddr == "") {
			return bad("attach mode needs either a control socket or a control address")
		}
		if c.ControlAddr != "" && !loopback(c.ControlAddr) {
			return bad("the control address must be an IP address of this computer (127.0.0.1:9051)")
		}
		if c.SocksAddr != "" {
			if _, err := parseEndpoint(c.SocksAddr); err != nil {
				return bad("SOCKS address: %v", err)
			}
		}
		if len(c.Torrc)+len(c.Bridges) > 0 || c.TorrcFile != "" {
			return bad("torrc lines and bridges are for managed mode: configure the running tor itself")
		}
	default:
		return bad("unknown mode %q: want managed, attach or off", c.Mode)
	}
	return nil
}

// endpoint is a socket on this computer, and never anything else.
type endpoint struct{ network, addr string }

// parseEndpoint takes "unix:/path" or a loopback "ip:port". A host name is no endpoint: it would need a look-up.
func parseEndpoint(s string) (endpoint, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if !filepath.IsAbs(path) {
			return endpoint{}, errors.New("the path after unix: is not absolute")
		}
		return endpoint{"unix", path}, nil
	}
	if !loopback(s) {
		return endpoint{}, fmt.Errorf("neither unix:/path nor an IP address of this computer (127.0.0.1:9050)")
	}
	return endpoint{"tcp", s}, nil
}

func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// torrc is the managed tor's configuration. sock is the directory of its sockets.
func (c *Config) torrc(sock string) (string, error) {
	var b strings.Builder
	line := func(f string, a ...any) { fmt.Fprintf(&b, f+"\n", a...) }
	line("# Written by tarn at each start: changes are lost. More lines go into tarn's configuration.")
	line("DataDirectory %s", quoted(filepath.Join(c.Dir, "tor")))
	line("ControlPort 0")
	line("ControlSocket %s", filepath.Join(sock, "control"))
	line("CookieAuthentication 1")
	line("CookieAuthFile %s", filepath.Join(sock, "cookie"))
	// OnionTrafficOnly: tor itself refuses clearnet names too. ExtendedErrors: it says why an onion failed.
	line("SocksPort unix:%s OnionTrafficOnly ExtendedErrors", filepath.Join(sock, "socks"))
	line("ClientOnly 1")
	// A mailbox may be quiet for days, and must answer all the same.
	line("DormantCanceledByStartup 1")
	line("DormantTimeoutEnabled 0")
	line("Log notice stdout")
	line("DisableNetwork 1") // until we listen for what it says
	if len(c.Bridges) > 0 {
		line("UseBridges 1")
		plugins := map[string]bool{}
		for _, br := range c.Bridges {
			line("Bridge %s", br)
			transport, _, _ := strings.Cut(strings.TrimSpace(br), " ")
			if programs, ok := bridgePrograms[transport]; ok && !plugins[transport] {
				plugins[transport] = true
				path, err := findProgram(programs...)
				if err != nil {
					return "", &trouble{ReasonBridges, fmt.Sprintf("bridges of the kind %s need the program %s, which is not installed", transport, strings.Join(programs, " or ")), err}
				}
				line("ClientTransportPlugin %s exec %s", transport, path)
			}
		}
	}
	for _, l := range c.Torrc {
		line("%s", l)
	}
	if c.TorrcFile != "" {
		lines, err := ReadTorrc(c.TorrcFile)
		if err != nil {
			return "", &trouble{ReasonDisk, "more lines for torrc", err}
		}
		for _, l := range lines {
			line("%s", l)
		}
	}
	return b.String(), nil
}

// maxTorrc bounds a TorrcFile, in bytes; a private network's has about 500.
const maxTorrc = 1 << 20

// ReadTorrc reads a file of torrc lines: without blank lines and comments, at most 1 MiB.
func ReadTorrc(path string) ([]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("torrc file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxTorrc+1))
	if err != nil {
		return nil, fmt.Errorf("torrc file: %w", err)
	}
	if len(b) > maxTorrc {
		return nil, fmt.Errorf("torrc file %s is larger than %d bytes", path, maxTorrc)
	}
	var lines []string
	for l := range strings.Lines(string(b)) {
		if l = strings.TrimSpace(l); l != "" && l[0] != '#' {
			lines = append(lines, l)
		}
	}
	return lines, nil
}

// bridgePrograms are the helpers tor starts for each kind of bridge; the first that is installed.
var bridgePrograms = map[string][]string{
	"obfs4":        {"obfs4proxy", "lyrebird"},
	"meek_lite":    {"obfs4proxy", "lyrebird"},
	"webtunnel":    {"lyrebird", "webtunnel-client"},
	"snowflake":    {"snowflake-client"},
	"scramblesuit": {"obfs4proxy"},
}

// outsidePath is where tor lies when a user's PATH does not have it (Debian: /usr/sbin; macOS: Homebrew).
var outsidePath = []string{"/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/local/bin"}

// findProgram is the path of the first of names that is installed.
func findProgram(names ...string) (string, error) {
	var first error
	for _, name := range names {
		p, err := exec.LookPath(name)
		if err == nil {
			return p, nil
		}
		if first == nil {
			first = err
		}
		if strings.ContainsRune(name, '/') {
			continue
		}
		for _, dir := range outsidePath {
			if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return p, nil
			}
		}
	}
	return "", first
}

// quoted is s as torrc takes strings with blanks or '#'.
func quoted(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
