// SPDX-License-Identifier: Apache-2.0

// Command mailbox keeps sealed boxes for nodes that are not on at the same time, as a Tor onion service. It learns
// nothing that names anybody; anybody can host one.
//
// This folder holds wiring and subcommands only: what a mailbox does is in the packages mailbox/front, mailbox/store and
// mailbox/courier.
//
// Data, under data_dir: mailbox.toml (the configuration), onion.seed (the identity: whoever has it is this mailbox),
// LOCK, control.sock (while it runs), keys/ (package mailbox/front), store/ (package mailbox/store), courier/ (package
// mailbox/courier), ponds/N/ (the same of the N-th address, when there are several), tor/ (package onion).
package main

import (
	"os"
	"runtime/debug"

	"tarn/internal/cli"
)

var program = &cli.Program{
	Name: "mailbox", ConfigName: "mailbox.toml", Title: "Tarn mailbox: keeps sealed boxes for others, and learns nothing by it.",
}

func main() {
	// A mailbox's memory is mostly buffers that are used again: collecting at 50 % growth costs little and halves the rest.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	program.Commands = []cli.Command{
		{Name: "init", Args: "[--dir DIR] [--ttl 336h] [--quota 10GiB] …", Does: "make a new mailbox", Run: cmdInit},
		{Name: "run", Does: "run it until Ctrl-C", Run: cmdRun},
		{Name: "address", Args: "[--no-qr]", Does: "print the line to give to others, and its QR code", Run: cmdAddress},
		{Name: "invite-code", Does: "make a code that is good for one account, to give to a person", Run: cmdInviteCode},
		{Name: "status", Does: "show Tor, boxes, bytes and quota of the running mailbox", Run: cmdStatus},
	}
	program.Main()
}
