// SPDX-License-Identifier: Apache-2.0

// Package load puts the real node program under load, over HTTP, as many clients at once.
//
// Problem: what a homeserver costs, and what it loses when it is killed, shows in the whole program with a disk, sockets and
// a garbage collector, not in a package's benchmark.
//
// What it does, all of it in tests: it builds cmd/node, runs it without Tor in a folder of its own, and
//   - kills it with SIGKILL in the middle of everything that clients write, again and again, and looks whether all that was
//     acknowledged is there, once, and whether tokens and transaction ids are still good (kill_test.go);
//   - measures (`make figures`, figures_test.go) beside what the machine gives without us: a bare synced write of the
//     store, a bare HTTP echo; and what rooms cost between nodes (between_test.go, in this process), beside the library alone.
//
// Invariants: only the node's own processor time counts as its cost (/proc), not the clients', which run on the same
// machine; a wrong or missing answer is an error, never a fast one.
package load
