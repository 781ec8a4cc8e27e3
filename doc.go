// SPDX-License-Identifier: Apache-2.0

// Package tarn holds no code: only the tests of the whole tree, that its layers hold (layers_test.go) and that every
// exported name is documented (names_test.go). README.md says where to begin.
package tarn
