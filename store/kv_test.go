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

func TestBadgerConforms(t *testing.T) {
	for name, shape := range map[string]store.Shape{"Rows": store.Rows, "Blocks": store.Blocks} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.KV {
				kv, err := store.OpenBadger(t.TempDir(), store.Options{Shape: shape})
				if err != nil {
					t.Fatal(err)
				}
				return kv
			})
		})
	}
}
