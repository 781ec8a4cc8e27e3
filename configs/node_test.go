// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"strings"
	"testing"
)

func TestNodeSampleIsTheStructsComments(t *testing.T) {
	compare(t, "node.toml", DefaultNode(), new(Node))
}

func TestNodeErrorsNameTheLineOrTheKey(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"data_dir = '.'\ncover_putt = 1\n", `line 2: unknown key "cover_putt"`},
		{"[profile]\nname = 'custom'\n\ncover_putt = 1\n", `line 4: unknown key "profile.cover_putt"`},
		{"[profiel]\nname = 'custom'\n", `line 1: unknown key`},
		{"profile.cover_putt = 1\n", `line 1: unknown key "profile.cover_putt"`},
		{"data_dir = 5\n", "data_dir"},
		{"data_dir = \n", "line 1"},
		{"log_level = 'loud'\n", "log_level"},
		{"introductions = 'friends'\n", "introductions"},
		{"max_introduced = 0\n", "max_introduced"},
		{"mailboxes = ['http://x']\n", "mailboxes"},
		{"mailboxes = ['tarn-mailbox:1:25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid', 'tarn-mailbox:1:25njqamcweflpvkl73j4szahhihoc4xt3ktcgjnpaingr5yhkenl5sid']\n", "twice"},
		{"mailboxes = ['a','b','c','d']\n", "at most 3"},
		{"[client]\nlisten = '8008'\n", "client.listen"},
		{"[client]\nlisten = 'example.com:80'\n", "IP address"},
		{"[client]\nlisten = '127.0.0.1:99999'\n", "client.listen"},
		{"[client]\nlisten = '300.0.0.1:80'\n", "client.listen"},
		{"[client]\nlisten = '0.0.0.0:1'\nopen_registration = true\n", "loopback"},
		{"[client]\nlisten = ':8008'\nopen_registration = true\n", "loopback"},
		{"[client]\nbase_url = 'https://tarn.example.org'\nopen_registration = true\n", "of this machine"},
		{"[client]\nbase_url = 'https://tarn.example.org'\nopen_media = true\n", "of this machine"},
		{"[client]\nlisten = ':8008'\nopen_media = true\n", "loopback"},
		{"[client]\nbase_url = 'ftp://x'\n", "client.base_url"},
		{"[tor]\nmode = 'maybe'\n", "tor.mode"},
		{"[tor]\nmode = 'attach'\n", "tor.control"},
		{"[profile]\nname = 'fast'\n", "profile.name"},
		{"[profile]\ncover_put = 1.0\n", "only with"},
		{"[profile]\nname = 'economy'\nframe = 5\n", "only with"},
		{"[profile]\nname = 'custom'\nframe = '1ms'\n", "profile.frame"},
		{"[profile]\nname = 'custom'\nframe = 'soon'\n", "line 3"},
		{"[profile]\nname = 'custom'\ndigests = 0\n", "profile.digests"},
		{"[profile]\nname = 'custom'\ncover_put = 1.5\n", "profile.cover_put"},
		{"[profile]\nname = 'custom'\ncover_put = nan\n", "profile.cover_put"},
		{"[profile]\nname = 'custom'\nack_delay = '-1s'\n", "profile.ack_delay"},
		{"[profile]\nname = 'custom'\nrewrite = '1s'\n", "profile.rewrite"},
	} {
		n := DefaultNode()
		err := decode("node.toml", c.text, &n)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q\n gives %v\n wanted %s", c.text, err, c.want)
		}
	}
}

func FuzzNodeConfig(f *testing.F) {
	f.Add("data_dir = '.'\n[profile]\nname = 'custom'\nframe = '50ms'\n")
	f.Add("mailboxes = ['tarn-mailbox:1:x']\n")
	f.Fuzz(func(t *testing.T, text string) {
		n := DefaultNode()
		if decode("f", text, &n) == nil && n.Check() != nil {
			t.Fatal("accepted, yet impossible")
		}
	})
}
