// SPDX-License-Identifier: Apache-2.0

// Command node is a Matrix homeserver for one person or family that reaches other homeservers only through mailboxes
// on Tor onion services.
//
// This folder holds wiring and subcommands only: what a node does is in the packages that open (node.go) puts together.
//
// Data, under data_dir: node.toml (the configuration), onion.seed and signing.seed (the identity), LOCK, control.sock
// (while it runs), db/ (package store), media/ (package media), tor/ (package onion).
package main

import (
	"tarn/account"
	"tarn/internal/cli"
)

var program = &cli.Program{Name: "node", ConfigName: "node.toml", Title: "Tarn node: a Matrix homeserver whose metadata stays yours."}

func main() {
	program.Commands = []cli.Command{
		{Name: "init", Args: "[--dir DIR] [--user NAME] …", Does: "make a new node", Run: cmdInit},
		{Name: "run", Does: "run the node until Ctrl-C", Run: cmdRun},
		{Name: "status", Does: "show Tor, mailboxes and contacts", Run: cmdStatus},
		{Name: "invite", Args: "[--life 168h]", Does: "print a link that makes one other node a contact", Run: cmdInvite},
		{Name: "accept", Args: "LINK", Does: "accept another node's link", Run: cmdAccept},
		{Name: "contacts", Does: "list the contacts", Run: cmdContacts},
		{Name: "forget", Args: "CONTACT | LINK-NUMBER", Does: "end a contact, or take a link back", Run: cmdForget},
		{Name: "profile", Args: "[NAME]", Does: "show what the profiles cost, or change it", Run: cmdProfile},
		{Name: "cut", Args: "[--undo] CONTACT", Does: "give a contact no more tokens for your mailboxes", Run: cmdCut},
		{Name: "presence", Args: "[--undo] CONTACT", Does: "tell a contact when users here are online and type", Run: cmdPresence},
		{Name: "tokens", Does: "show the mailboxes that want tokens, and how many there are", Run: cmdTokens},
		{Name: "mailbox add", Args: "LINE", Does: "use a mailbox: the line that `mailbox address` prints", Run: cmdMailboxAdd},
		{Name: "backup", Args: "FILE [--passphrase-stdin]", Does: "write everything that makes the node into one sealed file", Run: cmdBackup},
		{Name: "restore", Args: "FILE [--dir DIR]", Does: "make a node of a backup, in an empty folder", Run: cmdRestore},
		{Name: "user add", Args: "NAME [--password-stdin]", Does: "make an account", Run: cmdUserAdd},
		{Name: "user lock", Args: "NAME", Does: "let a user do nothing but log out", Run: cmdStanding("user lock", account.Standing{Locked: true}, "Locked. The sessions are kept for when you free the account.")},
		{Name: "user suspend", Args: "NAME", Does: "let a user read and leave, nothing else", Run: cmdStanding("user suspend", account.Standing{Suspended: true}, "Suspended.")},
		{Name: "user free", Args: "NAME", Does: "end a lock or suspension", Run: cmdStanding("user free", account.Standing{}, "Free again.")},
		{Name: "notice", Args: "(NAME | --all) TEXT", Does: "tell a user, or all, something as the node's operator", Run: cmdNotice},
		{Name: "reports", Does: "list what users reported: messages, rooms, people", Run: cmdReports},
		{Name: "media list", Args: "[--user NAME]", Does: "list the files that users uploaded", Run: cmdMediaList},
		{Name: "media delete", Args: "FILE…", Does: "delete files for good: what `media list` or an mxc:// address names", Run: cmdMediaDelete},
		{Name: "token", Args: "[--life 168h]", Does: "print a one-time token with which one person can register", Run: cmdToken},
	}
	program.Main()
}
