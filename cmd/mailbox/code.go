// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"tarn/internal/cli"
	"tarn/internal/control"
)

// inviteCode is a code, and what to say with it.
type inviteCode struct {
	Code    string    `json:"code"`
	Address string    `json:"address"`
	Expires time.Time `json:"expires"`
}

// inviteCode makes a code for an account at that pond; the first is 1.
func (m *running) inviteCode(pond int) (inviteCode, error) {
	if pond < 1 || pond > len(m.ponds) {
		return inviteCode{}, fmt.Errorf("there is no pond %d", pond)
	}
	p := m.ponds[pond-1]
	if p.store == nil {
		return inviteCode{}, errors.New("this mailbox keeps no boxes (store = false): there are no accounts")
	}
	c, expires, err := p.store.NewCode()
	return inviteCode{c.String(), p.keys.Address().String(), expires.UTC().Truncate(time.Second)}, err
}

// cmdInviteCode asks the running mailbox for a code.
func cmdInviteCode(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "invite-code")
	pond := f.Int("pond", 1, "for which of the mailbox's addresses, in the order of `mailbox address`")
	if err := f.NoWords(args); err != nil {
		return err
	}
	cfg, err := loadConfig(f.Config)
	if err != nil {
		return err
	}
	var c inviteCode
	if err := control.Call(ctx, filepath.Join(cfg.DataDir, socketName), "invite-code", *pond, &c); err != nil {
		return err
	}
	return f.Show(e, c, func(w io.Writer) {
		fmt.Fprintln(w, c.Code)
		fmt.Fprintf(e.Err, "Good for one account, until %s. The person puts it into the node's configuration, beside the mailbox's line:\n", c.Expires.Format("2 January 2006"))
		fmt.Fprintf(e.Err, "  mailbox_codes = [\"%s %s\"]\n", c.Address, c.Code)
	})
}
