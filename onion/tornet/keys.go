// SPDX-License-Identifier: Apache-2.0

package tornet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// keyAge is how long cached keys are used: an authority's certificate is good for 12 months (-m 12).
const keyAge = 300 * 24 * time.Hour

// makeKeys gives each process its keys, cached or new, and learns the fingerprints that clients need.
func (n *Network) makeKeys(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, r := range n.procs {
		g.Go(func() error {
			if n.loadKeys(r) {
				return nil
			}
			if r.dirPort != 0 {
				if err := n.makeAuthority(ctx, r); err != nil {
					return err
				}
			}
			if err := n.makeRouter(ctx, r); err != nil {
				return err
			}
			if err := n.saveKeys(r); err != nil {
				n.log.Debug("private Tor network: keys are not kept", "err", err) // the next start takes longer
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("make keys: %w", err)
	}
	for _, r := range n.procs[:n.cfg.Authorities] {
		n.lines = append(n.lines, fmt.Sprintf("DirAuthority %s orport=%d v3ident=%s 127.0.0.1:%d %s", r.name, r.orPort, r.v3ident, r.dirPort, r.id))
	}
	return nil
}

// loadKeys copies cached keys; false if there are none that can be used.
func (n *Network) loadKeys(r *relay) bool {
	src := filepath.Join(n.cfg.KeyCache, r.name)
	fi, err := os.Stat(filepath.Join(src, "identity"))
	if err != nil || time.Since(fi.ModTime()) > keyAge {
		return false
	}
	b, err := os.ReadFile(filepath.Join(src, "identity"))
	if err != nil {
		return false
	}
	f := strings.Fields(string(b))
	if len(f) < 1 || len(f[0]) != 40 || r.dirPort != 0 && (len(f) != 2 || len(f[1]) != 40) {
		return false
	}
	if err := copyKeys(filepath.Join(r.dir, "keys"), filepath.Join(src, "keys")); err != nil {
		os.RemoveAll(filepath.Join(r.dir, "keys"))
		return false
	}
	if r.id = f[0]; len(f) > 1 {
		r.v3ident = f[1]
	}
	return true
}

// saveKeys puts the keys of r into the cache: whole, by a rename, since several test programs may share it.
func (n *Network) saveKeys(r *relay) error {
	if err := os.MkdirAll(n.cfg.KeyCache, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(n.cfg.KeyCache, "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	err = errors.Join(
		copyKeys(filepath.Join(tmp, "keys"), filepath.Join(r.dir, "keys")),
		os.WriteFile(filepath.Join(tmp, "identity"), []byte(r.id+" "+r.v3ident+"\n"), 0o600),
		os.RemoveAll(filepath.Join(n.cfg.KeyCache, r.name)), // too old, or damaged
	)
	if err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(n.cfg.KeyCache, r.name))
}

// copyKeys copies a directory with the modes that tor demands.
func copyKeys(dst, src string) error {
	if err := os.CopyFS(dst, os.DirFS(src)); err != nil {
		return err
	}
	return filepath.WalkDir(dst, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
}

var fingerprintLine = regexp.MustCompile(`(?m)^fingerprint ([0-9A-F]{40})\s*$`)

// makeAuthority makes an authority's long-term keys and certificate. Without -a: an address in the certificate would
// overrule the torrc, and tie the cached keys to a port.
func (n *Network) makeAuthority(ctx context.Context, r *relay) error {
	keys := filepath.Join(r.dir, "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return err
	}
	cert := filepath.Join(keys, "authority_certificate")
	c := exec.CommandContext(ctx, n.cfg.GencertPath, "--create-identity-key",
		"-i", filepath.Join(keys, "authority_identity_key"),
		"-s", filepath.Join(keys, "authority_signing_key"),
		"-c", cert, "-m", "12", "--passphrase-fd", "0")
	c.Stdin = strings.NewReader("test\n")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("tor-gencert: %w: %s", err, out)
	}
	b, err := os.ReadFile(cert)
	if err != nil {
		return err
	}
	m := fingerprintLine.FindSubmatch(b)
	if m == nil {
		return fmt.Errorf("no fingerprint in %s", cert)
	}
	r.v3ident = string(m[1])
	return nil
}

// makeRouter makes a relay's identity and learns its fingerprint.
func (n *Network) makeRouter(ctx context.Context, r *relay) error {
	empty := filepath.Join(r.dir, "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		return err
	}
	c := exec.CommandContext(ctx, n.cfg.TorPath, "-f", empty, "--defaults-torrc", empty,
		"--list-fingerprint", "--quiet", "--orport", "1", "--datadirectory", r.dir, "--nickname", r.name)
	out, err := c.Output()
	if err != nil {
		return fmt.Errorf("tor --list-fingerprint: %w: %s", err, out)
	}
	f := strings.Fields(string(out)) // nickname, then 10 groups of 4
	if len(f) < 2 {
		return fmt.Errorf("tor --list-fingerprint says %q", out)
	}
	if r.id = strings.Join(f[1:], ""); len(r.id) != 40 {
		return fmt.Errorf("tor --list-fingerprint says %q", out)
	}
	return nil
}
