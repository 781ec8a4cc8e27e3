// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"tarn/account"
	"tarn/configs"
	"tarn/internal/cli"
	"tarn/matrix"
	"tarn/media"
)

type noticeArgs struct {
	Name string `json:"name,omitempty"` // "": all users
	Text string `json:"text"`
}

type noticeResult struct {
	Told []matrix.UserID `json:"told"`
}

// notice tells users something in the room that only they and the operator are in.
func (n *node) notice(ctx context.Context, a noticeArgs) (res noticeResult, err error) {
	if strings.TrimSpace(a.Text) == "" {
		return res, errors.New("a notice needs words")
	}
	var users []matrix.UserID
	if a.Name == "" {
		users, err = n.accounts.Users()
	} else {
		users = make([]matrix.UserID, 1)
		users[0], err = matrix.NewUserID(a.Name, n.id.name)
	}
	if err != nil {
		return res, err
	}
	for _, u := range users {
		if _, err := n.api.Notice(ctx, u, a.Text); err != nil {
			return res, fmt.Errorf("%s (%d were told before): %w", u, len(res.Told), err)
		}
		res.Told = append(res.Told, u)
	}
	return res, nil
}

func cmdNotice(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "notice")
	all := f.Bool("all", false, "tell every user")
	words, err := f.WordsBetween(args, 1, 2, "the user's name and the text, or --all and the text")
	if err != nil {
		return err
	}
	if *all == (len(words) == 2) {
		fmt.Fprintln(f.Output(), "notice needs the user's name and the text, or --all and the text")
		return cli.ErrUsage
	}
	a := noticeArgs{Text: words[len(words)-1]}
	if !*all {
		a.Name = words[0]
	}
	var res noticeResult
	if err := call(ctx, f.Config, "notice", true, a, &res); err != nil {
		return err
	}
	fmt.Fprintf(e.Err, "Told %d.\n", len(res.Told))
	return f.Show(e, res, func(io.Writer) {})
}

type mediaListArgs struct {
	Name string `json:"name,omitempty"` // "": of all users
}

type mediaListResult struct {
	Files []media.Entry `json:"files"`
	Used  int64         `json:"used"` // bytes, of all users; equal files once
}

func (n *node) listMedia(_ context.Context, a mediaListArgs) (res mediaListResult, err error) {
	var user matrix.UserID
	if a.Name != "" {
		if user, err = matrix.NewUserID(a.Name, n.id.name); err != nil {
			return res, err
		}
	}
	if res.Files, err = n.media.List(user); err != nil {
		return res, err
	}
	res.Used, err = n.media.Used()
	return res, err
}

func cmdMediaList(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "media list")
	user := f.String("user", "", "only this user's")
	if err := f.NoWords(args); err != nil {
		return err
	}
	var res mediaListResult
	if err := call(ctx, f.Config, "media list", true, mediaListArgs{Name: *user}, &res); err != nil {
		return err
	}
	return f.Show(e, res, func(w io.Writer) {
		for _, x := range res.Files {
			fmt.Fprintf(w, "%s  %s  %d  %s  %q\n", x.ID, x.User, x.Size, x.Type, x.Name)
		}
		fmt.Fprintf(w, "%d files; %v of the disk are used\n", len(res.Files), configs.Bytes(res.Used))
	})
}

type mediaDeleteArgs struct {
	Files []string `json:"files"`
}

type mediaDeleteResult struct {
	Deleted int `json:"deleted"`
}

func (n *node) deleteMedia(_ context.Context, a mediaDeleteArgs) (res mediaDeleteResult, err error) {
	for _, name := range a.Files {
		id := strings.TrimPrefix(name, "mxc://"+string(n.id.name)+"/")
		if err := n.media.Delete(id); err != nil {
			return res, fmt.Errorf("%s (%d were deleted before): %w", name, res.Deleted, err)
		}
		res.Deleted++
	}
	return res, nil
}

func cmdMediaDelete(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "media delete")
	words, err := f.WordsBetween(args, 1, 1000, "the names of files")
	if err != nil {
		return err
	}
	var res mediaDeleteResult
	if err := call(ctx, f.Config, "media delete", true, mediaDeleteArgs{Files: words}, &res); err != nil {
		return err
	}
	fmt.Fprintf(e.Err, "Deleted. Copies that clients keep are not reached.\n")
	return f.Show(e, res, func(io.Writer) {})
}

// cmdReports lists what users reported: the node's owner is who can do something about it.
func cmdReports(ctx context.Context, e cli.Env, args []string) error {
	f := program.Flags(e, "reports")
	if err := f.NoWords(args); err != nil {
		return err
	}
	var res []account.Report
	if err := call(ctx, f.Config, "reports", true, nil, &res); err != nil {
		return err
	}
	return f.Show(e, res, func(w io.Writer) { printReports(w, res) })
}

// printReports writes a line for each: when, by whom, what, and why.
func printReports(w io.Writer, list []account.Report) {
	for _, x := range list {
		var what []string
		if x.Event != "" {
			what = append(what, "event "+string(x.Event))
		}
		if x.Room != "" {
			what = append(what, "room "+string(x.Room))
		}
		if x.User != "" {
			what = append(what, "user "+string(x.User))
		}
		fmt.Fprintf(w, "%s  %s  %s  %q\n", time.Unix(x.Time, 0).Format(time.DateTime), x.By, strings.Join(what, " in "), x.Reason)
	}
	fmt.Fprintf(w, "%d reports\n", len(list))
}
