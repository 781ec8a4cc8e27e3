// SPDX-License-Identifier: Apache-2.0

//go:build !race

package replicate

import "testing"

// measures: see raced_test.go.
func measures(*testing.T) {}

// plays: see raced_test.go.
func plays(n int) int { return n }
