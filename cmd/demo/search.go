// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// needle is something that must not be found, in one of the forms it could be written in.
type needle struct {
	what  string
	bytes []byte
}

// search looks for everything that names anybody in the mailboxes' data directories and in every log.
func (p *play) search() error {
	needles, err := p.needles()
	if err != nil {
		return err
	}
	files, n := 0, int64(0)
	look := func(name string) error {
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		files, n = files+1, n+int64(len(b))
		for _, s := range needles {
			if bytes.Contains(b, s.bytes) {
				return fmt.Errorf("%s holds %s", name, s.what)
			}
		}
		return nil
	}
	err = filepath.WalkDir(p.s.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) { // a running database removes files
				return nil
			}
			return err
		}
		rel, _ := filepath.Rel(p.s.dir, name)
		wanted := strings.HasPrefix(rel, "mailbox-") || strings.HasSuffix(name, ".log")
		if d.Type().IsRegular() && wanted {
			if err := look(name); err != nil && !os.IsNotExist(err) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if files < 5 {
		return fmt.Errorf("only %d files were searched: the search is broken", files)
	}
	p.s.say("searched %d files (%.1f MB) for %d names and texts: nothing", files, float64(n)/1e6, len(needles))
	return nil
}

func (p *play) needles() (out []needle, err error) {
	add := func(what, s string) { out = append(out, needle{what, []byte(s)}) }
	for i, n := range p.s.nodes {
		id := strings.TrimSuffix(n.address, ".onion")
		add("a node's onion name", id)
		key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.ToUpper(id))
		if err != nil {
			return nil, err
		}
		key = key[:32]
		out = append(out, needle{"a node's onion key", key})
		add("a node's onion key", hex.EncodeToString(key))
		add("a node's onion key", base64.RawStdEncoding.EncodeToString(key))
		add("a user id", n.user)
		add("a user id", string(p.players[i].c.UserID))
		add("a user's name", "@"+p.players[i].name+":")
	}
	add("the room id", string(p.room))
	add("the room's name", "Sunday walk")
	add("a room id", string(p.other))
	add("a room's name", thirdName)
	out = append(out, needle{"a file's bytes", p.secret[:64]})
	for _, pl := range p.players {
		for _, h := range pl.heard {
			add("an event id", string(h.event))
		}
	}
	for _, l := range p.lines {
		add("a message's text", l.body)
	}
	return out, nil
}
