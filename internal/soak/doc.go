// SPDX-License-Identifier: Apache-2.0

// Package soak lives through weeks of a small world of nodes, and then asks every one of them what it has.
//
// Problem: that rooms converge, that no message is lost or shown twice and that every one can be read is shown piece by piece in the
// tests of the packages; what goes wrong only when a node comes back after days, while a mailbox is dead, in the middle of a ban, to
// a room whose members are not all contacts, is seen by nobody before a user sees it.
//
// `make soak` runs whole nodes with the real code, on the network in memory (onion/oniontest) with real mailboxes (stores and
// couriers), in fake time: people with a client each, of which a part encrypts with mautrix's goolm, write, invite, join, leave, kick,
// ban, change topics and powers; nodes are stopped, killed between two writes, cut off, and away for days while their users go on
// writing; mailboxes stop and lose what they keep. Everything that is done to rooms, and everything that is checked, goes through the
// Client-Server API; only contacts are made by the owners' commands. After a quiet time every node must show, through the API, the
// same state and events, each acknowledged message once, and whoever was in a room when its sender wrote can decrypt it.
//
// A run prints its sums and writes build/soak.json ([Result]). The tests of a package that are run by themselves do a short one.
//
// What is drawn (people, graph, faults, times, schedules) comes from the seed. What is not: the keys, and in which order goroutines
// that wake at the same fake instant run; so the same seed gives the same story with slightly other boxes.
package soak
