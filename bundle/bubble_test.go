// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"bytes"
	"testing"
	"testing/synctest"
)

// Packages above pack and unpack in bubbles, one after the other in one process.
func TestBundlesArePackedInOneBubbleAfterTheOther(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			p := NewPacker(Head{})
			if !p.Add(Record{Type: TypeEvents, Data: bytes.Repeat([]byte("compressible "), 1000)}) {
				t.Fatal("it does not fit")
			}
			if _, fs, err := Unpack(p.Pack()); err != nil || len(fs) != 1 {
				t.Fatal(len(fs), err)
			}
		})
	}
}
