// SPDX-License-Identifier: Apache-2.0

//go:build !race

package replicate

import "testing"

// measures: see raced_test.go.
func measures(*testing.T) {}
