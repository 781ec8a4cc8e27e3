// SPDX-License-Identifier: Apache-2.0

//go:build !race

package e2e

import "testing"

// long: see raced_test.go.
func long(*testing.T) {}
