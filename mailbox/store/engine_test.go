// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"tarn/mailbox/mailboxtest"
	"tarn/mailbox/store"
	kv "tarn/store"
)

func TestMemoryIsAnEngine(t *testing.T) {
	mailboxtest.TestEngine(t, func(t *testing.T, unit time.Duration, quota int64) store.Engine {
		return store.NewMemory(unit, quota)
	})
}

func TestDaysIsAnEngine(t *testing.T) {
	mailboxtest.TestEngine(t, func(t *testing.T, unit time.Duration, quota int64) store.Engine {
		return openDays(t, filepath.Join(t.TempDir(), "days"), unit, quota, nil)
	})
}

func TestDaysInMemoryIsAnEngine(t *testing.T) {
	mailboxtest.TestEngine(t, func(t *testing.T, unit time.Duration, quota int64) store.Engine {
		return openDays(t, filepath.Join(t.TempDir(), "days"), unit, quota, func(string) (kv.KV, error) { return kv.OpenMemory(), nil })
	})
}

func openDays(t testing.TB, dir string, unit time.Duration, quota int64, open func(string) (kv.KV, error)) *store.Days {
	t.Helper()
	d, err := store.OpenDays(store.DaysConfig{Dir: dir, Unit: unit, Quota: quota, Open: open})
	if err != nil {
		t.Fatal(err)
	}
	return d
}
