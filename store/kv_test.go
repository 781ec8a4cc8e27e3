// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"testing"

	"tarn/store"
	"tarn/store/storetest"
)

func TestMemoryConforms(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.KV { return store.OpenMemory() })
}
