// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"path/filepath"
	"testing"
)

func TestTorrcFileIsReadForAManagedTorOnly(t *testing.T) {
	lost := filepath.Join(t.TempDir(), "client.torrc") // a private network's file goes with the network
	for mode, fails := range map[string]bool{"managed": true, "attach": false, "off": false} {
		tor := Tor{Mode: mode, Program: "tor", TorrcFile: lost}
		if _, err := tor.Onion(t.TempDir(), nil); (err != nil) != fails {
			t.Errorf("%s: %v", mode, err)
		}
	}
}
