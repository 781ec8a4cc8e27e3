// SPDX-License-Identifier: Apache-2.0

// Package onion is the only way in and out: it drives a tor process, connects to onion services and offers our own.
//
// Problem: whoever sees which computer talks to which mailbox knows who talks to whom. So every connection between
// our programs goes through Tor, from an onion service to an onion service; and a mistake elsewhere (a wrong name in
// a config, tor not yet up) must end in an error, never in a connection by another way.
//
// What it does: [Tor] starts a tor process (or attaches to a running one), tells how far it has come and what is in
// its way, starts it again when it dies, publishes onion services from keys of ours, and dials "<56>.onion:port" with
// a circuit of its own for each purpose. [Network] is the part that others use; oniontest.Net is the same in memory.
//
// Invariants:
//   - Dial knows one target form, an onion name and a port, and one way, tor's SOCKS socket. It never resolves a name,
//     never opens an IP connection, and never falls back. (In managed mode every socket is a unix socket: tor has no
//     TCP listener that another user of this computer could reach.)
//   - Streams of two different isolation strings never share a circuit, nor do streams of two processes.
//   - tor ends with this process, however it ends: by the kernel's parent-death signal (Linux), by TAKEOWNERSHIP, and
//     by __OwningControllerProcess within 15 s if we are killed before that command was sent.
//   - Onion keys are ours ([LoadOrCreateSeed]); tor gets them through the control socket and keeps no copy on disk.
//   - Nothing logged at Info or above names an onion or an address.
//
// Data (managed mode): Config.Dir/tor is tor's DataDirectory (guards, consensus; losing it costs only time, but new
// guards are a privacy loss: keep it), Config.Dir/torrc is rewritten at each start, Config.Dir/LOCK keeps a second
// process out. Sockets lie in Config.Dir/run-*, or, when that path is too long for a unix socket (107 bytes) or has
// unusual characters, in a 0700 directory under $XDG_RUNTIME_DIR or the temporary directory; they go at the end of
// Run, and what kill -9 left is removed by the next one.
//
// Limits: unix only. In attach mode tor runs as another user, so services are reached over loopback TCP, which other
// users of this computer can connect to; and its SocksPort may lack ExtendedErrors, so that failed dials are less
// well told apart.
package onion
