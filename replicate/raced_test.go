// SPDX-License-Identifier: Apache-2.0

//go:build race

package replicate

import "testing"

// measures marks a test that is about times and shares and makes much real cryptography, which the race detector slows
// tenfold: `make plain` runs it without, and smaller tests take the same paths under the detector.
func measures(t *testing.T) {
	t.Helper()
	t.Skip("measured without the race detector: make plain")
}

// plays is how many of a test's n random plays are made: the race detector finds in some what it would find in all, and
// `make plain` makes all.
func plays(n int) int { return (n + 3) / 4 }
