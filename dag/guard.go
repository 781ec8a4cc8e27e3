// SPDX-License-Identifier: Apache-2.0

//go:build !goexperiment.jsonv2 && !go1.27

package dag

// See matrix/guard.go: this name is missing on purpose.
var _ = set_GOEXPERIMENT_jsonv2_in_the_environment_to_build_tarn
