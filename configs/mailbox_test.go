// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"strings"
	"testing"

	"tarn/mailbox/store"
)

func TestMailboxSampleIsTheStructsComments(t *testing.T) {
	compare(t, "mailbox.toml", DefaultMailbox(), new(Mailbox))
}

func TestMailboxErrorsNameTheLineOrTheKey(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"ttl = '1h'\nqota = '1GiB'\n", `line 2: unknown key "qota"`},
		{"[tor]\nmod = 'off'\n", `line 2: unknown key "tor.mod"`},
		{"quota = '1 potato'\n", "potato"},
		{"quota = '1MiB'\n", "quota is 1MiB"},
		{"quota = '97MiB'\n", "at least 98 MiB"},
		{"quota = '250MiB'\nexpiry_unit = '6h'\n", "at least 266 MiB"},
		{"quota = '195MiB'\nponds = 2\n", "for each pond"},
		{"reserved_sessions = 501\n", "half of max_sessions"},
		{"max_sessions = 100\n", "reserved_sessions is 250"},
		{"deposit = 'open'\n", "reserved_sessions is 250: without"},
		{"store = false\n", "reserved_sessions is 250: without"},
		{"work_bits = 29\n", "work_bits is 29"},
		{"quota = '-5GiB'\n", "-5GiB"},
		{"quota = '9999999TiB'\n", "9999999TiB"},
		{"reserve = '0B'\n", "reserve is 0B"},
		{"ttl = '1s'\n", "ttl is 1s"},
		{"ttl = '9000h'\n", "ttl is 9000h"},
		{"digest_bucket = '1ms'\n", "digest_bucket is 1ms"},
		{"digest_bucket = '1500us'\n", "digest_bucket"},
		{"expiry_unit = '10m'\n", "more than 100 units"},
		{"expiry_unit = '1us'\n", "expiry_unit is 1µs"},
		{"max_connections = 0\n", "max_connections is 0"},
		{"pow_rate = -1\n", "pow_rate is -1"},
		{"log_level = 'loud'\n", "log_level"},
		{"data_dir = ''\n", "data_dir"},
		{"tor.mode = 'onn'\n", "tor.mode"},
		{"quota = 5.5\n", "line 1"},
	} {
		m := DefaultMailbox()
		if err := decode("mailbox.toml", c.text, &m); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
}

// The costs are package mailbox/store's, which this one must not import.
func TestTheLeastQuotaKnowsTheStoresCosts(t *testing.T) {
	if unitCost != store.UnitCost || boxCost != store.BoxCost {
		t.Errorf("%d a unit, %d a box; the store says %d, %d", unitCost, boxCost, store.UnitCost, store.BoxCost)
	}
}

func TestBytesReadWhatTheyWrite(t *testing.T) {
	for _, b := range []Bytes{0, 1, 1000, 1 << 10, 3 << 20, 10 << 30, 1 << 40, 1<<63 - 1} {
		var got Bytes
		if err := got.Set(b.String()); err != nil || got != b {
			t.Errorf("%d -> %s -> %d, %v", b, b, got, err)
		}
	}
	for s, want := range map[string]Bytes{"5": 5, "5 kB": 5000, "2GB": 2e9, "1 GiB": 1 << 30} {
		var got Bytes
		if err := got.Set(s); err != nil || got != want {
			t.Errorf("%q = %d, %v", s, got, err)
		}
	}
}
