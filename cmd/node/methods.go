// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"tarn/account"
	"tarn/internal/control"
	"tarn/matrix"
	"tarn/replicate"
	"tarn/room"
)

type inviteArgs struct {
	Life time.Duration `json:"life"`
}

type inviteResult struct {
	Link    string    `json:"link"`
	Expires time.Time `json:"expires"`
}

type acceptArgs struct {
	Link string `json:"link"`
}

type forgetArgs struct {
	Name string `json:"name"`
}

type presenceArgs struct {
	Name string `json:"name"`
	Undo bool   `json:"undo,omitempty"`
}

type userArgs struct {
	Name     string `json:"name"`
	Password string `json:"password,omitempty"` // "": one is made
}

type userResult struct {
	User     string `json:"user"`
	Password string `json:"password,omitempty"` // if it was made here
}

type tokenArgs struct {
	Life time.Duration `json:"life"`
}

type tokenResult struct {
	Token string `json:"token"`
}

// methods are what the control socket offers, and what a command runs itself when the node does not run.
func (n *node) methods() map[string]control.Handler {
	return map[string]control.Handler{
		"invite":        method(n.invite),
		"accept":        method(n.accept),
		"forget":        method(n.forget),
		"contacts":      method(func(context.Context, struct{}) ([]contactStatus, error) { return n.contacts() }),
		"status":        method(func(context.Context, struct{}) (nodeStatus, error) { return n.status() }),
		"user add":      method(func(_ context.Context, a userArgs) (userResult, error) { return n.addUser(a) }),
		"token":         method(n.token),
		"profile":       method(n.useProfile),
		"user standing": method(n.setStanding),
		"cut":           method(n.cut),
		"presence":      method(n.presence),
		"notice":        method(n.notice),
		"reports":       method(func(context.Context, struct{}) ([]account.Report, error) { return n.accounts.Reports() }),
		"media list":    method(n.listMedia),
		"media delete":  method(n.deleteMedia),
		"tokens":        method(func(context.Context, struct{}) (tokensResult, error) { return n.tokens(), nil }),
		"backup":        method(n.backup),
	}
}

// method reads a handler's arguments into their type.
func method[A, R any](f func(context.Context, A) (R, error)) control.Handler {
	return func(ctx context.Context, raw json.RawMessage) (any, error) {
		var a A
		if len(raw) > 0 {
			if err := json.Unmarshal(raw, &a); err != nil {
				return nil, fmt.Errorf("arguments: %w", err)
			}
		}
		return f(ctx, a)
	}
}

func (n *node) invite(ctx context.Context, a inviteArgs) (inviteResult, error) {
	if len(n.cfg.Mailboxes) == 0 {
		return inviteResult{}, fmt.Errorf("no mailbox is configured: add one with `node mailbox add LINE`")
	}
	l, err := n.engine.Invite(ctx, a.Life)
	if err != nil {
		return inviteResult{}, err
	}
	return inviteResult{Link: l.String(), Expires: l.Expiry}, nil
}

func (n *node) accept(ctx context.Context, a acceptArgs) (contactStatus, error) {
	if len(n.cfg.Mailboxes) == 0 {
		return contactStatus{}, fmt.Errorf("no mailbox is configured: add one with `node mailbox add LINE`")
	}
	l, err := replicate.ParseLink(a.Link)
	if err != nil {
		return contactStatus{}, err
	}
	c, err := n.engine.Accept(ctx, l)
	return newContactStatus(c), err
}

func (n *node) forget(_ context.Context, a forgetArgs) (struct{}, error) {
	return struct{}{}, n.engine.Forget(a.Name)
}

func (n *node) presence(_ context.Context, a presenceArgs) (struct{}, error) {
	return struct{}{}, n.engine.SetSigns(a.Name, !a.Undo)
}

func (n *node) addUser(a userArgs) (res userResult, err error) {
	pw := a.Password
	if pw == "" {
		pw = newPassword()
		res.Password = pw
	}
	u, err := n.accounts.Create(a.Name, pw)
	res.User = string(u)
	return res, err
}

// renewUser gives a user that exists another password, and ends the user's sessions.
func (n *node) renewUser(a userArgs) (res userResult, err error) {
	pw := a.Password
	if pw == "" {
		pw = newPassword()
		res.Password = pw
	}
	u, err := matrix.NewUserID(a.Name, n.id.name)
	if err != nil {
		return res, err
	}
	res.User = string(u)
	return res, n.accounts.SetPassword(u, pw, true, "")
}

func (n *node) token(_ context.Context, a tokenArgs) (tokenResult, error) {
	t, err := n.accounts.NewRegistrationToken(a.Life)
	return tokenResult{t}, err
}

// encodeReceipts makes the record in which other nodes read a room's receipts, without its type byte; nil if there is
// nothing that may leave.
func encodeReceipts(id matrix.RoomID, rs []room.Receipt) []byte {
	rec, err := replicate.EncodeReceipts(id, rs)
	if err != nil || len(rec) == 0 {
		return nil
	}
	return rec[1:]
}
