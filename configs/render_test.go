// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"reflect"
	"testing"
	"time"
)

func TestRenderedConfigurationReadsBackEqual(t *testing.T) {
	n := DefaultNode()
	n.DataDir, n.Mailboxes, n.LogLevel = "/x \"y\"", []string{}, "warn"
	n.Client.Listen, n.Client.NoRateLimit = "127.0.0.1:1", true
	n.Tor.Mode, n.Tor.Bridges = "off", []string{"a b", "c"}
	n.Profile = Profile{Name: "custom", Frame: 50 * time.Millisecond, Mix: 10 * time.Millisecond, Lag: time.Second, Push: time.Second, Digests: 2, CoverPut: 0.25, AckDelay: time.Second, Rewrite: 2 * time.Second}
	var got Node
	if err := decode("f", string(RenderNode(n)), &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, n) {
		t.Fatalf("got  %+v\nwant %+v", got, n)
	}
}
