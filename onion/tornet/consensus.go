// SPDX-License-Identifier: Apache-2.0

package tornet

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// maxDirectory bounds a directory document, in bytes; 30 relays' have 100 kB.
const maxDirectory = 8 << 20

func (n *Network) waitDirPorts(ctx context.Context) error {
	for _, r := range n.procs[:n.cfg.Authorities] {
		err := n.poll(ctx, r.name, func() (bool, error) {
			c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", r.dirPort), time.Second)
			if err == nil {
				c.Close()
			}
			return err == nil, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// directory fetches a document from an authority.
func (n *Network) directory(ctx context.Context, r *relay, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// tor answers Go's own "Accept-Encoding: gzip" with deflate, which Go does not undo. No proxy: this is loopback.
	tr := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("http://127.0.0.1:%d%s", r.dirPort, path), nil)
	if err != nil {
		return "", err
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxDirectory))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", path, resp.Status)
	}
	return string(b), nil
}

// waitDescriptors waits until every authority knows every process.
func (n *Network) waitDescriptors(ctx context.Context) error {
	for _, r := range n.procs[:n.cfg.Authorities] {
		err := n.poll(ctx, "the relays' descriptors", func() (bool, error) {
			s, err := n.directory(ctx, r, "/tor/server/all")
			have := strings.Count("\n"+s, "\nrouter ")
			if err == nil {
				err = fmt.Errorf("%d of %d", have, len(n.procs))
			}
			return have >= len(n.procs), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// vote has the authorities vote now, by moving their schedule. One authority does it all in one call; several need 2 s
// more for each of the delays.
func (n *Network) vote(ctx context.Context) error {
	lead := int64(2)
	if n.cfg.Authorities > 1 {
		lead = 6
	}
	ctls := make([]*ctl, n.cfg.Authorities)
	for i, r := range n.procs[:n.cfg.Authorities] { // first all connections: then the commands come close together
		err := n.poll(ctx, r.name+"'s control socket", func() (ok bool, err error) {
			ctls[i], err = n.dialControl(r)
			return err == nil, err
		})
		if err != nil {
			return err
		}
	}
	offset := (time.Now().Unix() + lead) % votingInterval
	for _, c := range ctls {
		if _, err := c.cmd(fmt.Sprintf("SETCONF TestingV3AuthVotingStartOffset=%d", offset)); err != nil {
			return fmt.Errorf("hold the vote: %w", err)
		}
	}
	return nil
}

// waitConsensus waits until the consensus has every process as a running directory of onion services.
func (n *Network) waitConsensus(ctx context.Context) error {
	return n.poll(ctx, "the consensus", func() (bool, error) {
		s, err := n.directory(ctx, n.procs[0], "/tor/status-vote/current/consensus-microdesc")
		usable := 0
		for l := range strings.Lines(s) {
			if strings.HasPrefix(l, "s ") && strings.Contains(l, " HSDir") && strings.Contains(l, " Running") {
				usable++
			}
		}
		if err == nil {
			err = fmt.Errorf("%d of %d relays", usable, len(n.procs))
		}
		return usable >= len(n.procs), err
	})
}

// spread makes every relay fetch the consensus now (its download schedule has backed off) and waits until each has all
// microdescriptors: a client that asks one that lacks some waits 10 s before it asks another. Relays need not say
// 100 %: they serve before.
func (n *Network) spread(ctx context.Context) error {
	for i, r := range n.procs {
		c, err := n.dialControl(r)
		if err != nil {
			return err
		}
		if i >= n.cfg.Authorities {
			if _, err := c.cmd("SIGNAL HUP"); err != nil {
				return fmt.Errorf("wake %s: %w", r.name, err)
			}
		}
	}
	for _, r := range n.procs {
		err := n.poll(ctx, r.name+"'s copy of the directory", func() (bool, error) {
			s, err := r.ctl.cmd("GETINFO md/all")
			have := strings.Count("\n"+s, "\nonion-key")
			if err == nil {
				err = fmt.Errorf("%d of %d", have, len(n.procs))
			}
			return have >= len(n.procs), err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
