// SPDX-License-Identifier: Apache-2.0

// Package e2e holds tests of whole nodes, put together as cmd/node does it, that look only through the Client-Server
// API. Network and time are made up (mailboxtest, testing/synctest); nothing else is.
package e2e
