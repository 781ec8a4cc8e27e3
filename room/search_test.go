// SPDX-License-Identifier: Apache-2.0

package room

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestWords(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""}, {"Hello, World!", "hello world"}, {"it's", "it s"}, {"a1 b2", "a1 b2"}, {"ÄÖ ß", "äö ß"}, {"日本 go", "日 本 go"},
		{"x\x00y", "x y"}, {"...", ""}, {strings.Repeat("é", 100), strings.Repeat("é", maxWord/2)},
	} {
		var got []string
		words(c.text, func(w string) bool { got = append(got, w); return true })
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%q: %q, want %q", c.text, s, c.want)
		}
	}
	if got := distinct("b a b c", 2); !slices.Equal(got, []string{"b", "a"}) {
		t.Error(got)
	}
}

func FuzzWords(f *testing.F) {
	for _, s := range []string{"Hello, World!", "日本語", "\xff\xfe", "İI", strings.Repeat("a", 1000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, w := range distinct(s, maxWords) {
			if w == "" || len(w) > maxWord || strings.IndexByte(w, 0) >= 0 || !utf8.ValidString(w) {
				t.Errorf("%q has the word %q", s, w)
			}
			if again := distinct(w, 2); len(again) != 1 || again[0] != w && len(w) < maxWord-4 && strings.ToLower(w) == w {
				t.Errorf("the word %q is %q", w, again)
			}
		}
	})
}
