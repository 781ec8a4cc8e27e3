// SPDX-License-Identifier: Apache-2.0

//go:build race

package e2e

import "testing"

// long marks a test of much cryptography whose paths smaller ones take under the race detector too: `make plain` runs it without.
func long(t *testing.T) {
	t.Helper()
	t.Skip("too long under the race detector: make plain")
}
