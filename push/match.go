// SPDX-License-Identifier: Apache-2.0

package push

import (
	"slices"
	"strings"
	"unicode"
)

// pattern is a glob without regard to case: * is any characters, ? is one (C-S API, "Conditions": event_match).
type pattern struct {
	runes []rune
	wild  bool
}

func compile(glob string) pattern {
	p := pattern{wild: strings.ContainsAny(glob, "*?")}
	for _, r := range glob {
		r = fold(r)
		if r == '*' && len(p.runes) > 0 && p.runes[len(p.runes)-1] == '*' {
			continue
		}
		p.runes = append(p.runes, r)
	}
	return p
}

// literal is a pattern in which no character stands for others.
func literal(text string) pattern { return pattern{runes: folded(text)} }

// fold gives all spellings of a letter one form.
func fold(r rune) rune {
	if r < 0x80 {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}
	return unicode.ToLower(unicode.ToUpper(r))
}

func folded(s string) []rune {
	out := make([]rune, 0, len(s))
	for _, r := range s {
		out = append(out, fold(r))
	}
	return out
}

// whole matches all of a text.
func (p pattern) whole(text string) bool {
	if !p.wild {
		i := 0
		for _, r := range text {
			if i == len(p.runes) || p.runes[i] != fold(r) {
				return false
			}
			i++
		}
		return i == len(p.runes)
	}
	t := folded(text)
	// The last * takes one character more whenever what follows it does not fit.
	i, star, mark := 0, -1, 0
	for j := 0; j < len(t); {
		switch {
		case i < len(p.runes) && p.runes[i] == '*':
			star, mark = i, j
			i++
		case i < len(p.runes) && (p.runes[i] == '?' || p.runes[i] == t[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p.runes) && p.runes[i] == '*' {
		i++
	}
	return i == len(p.runes)
}

// inWords matches a part of a folded text that begins and ends at a word boundary: the text's ends, or a character that is none of A-Z,
// a-z, 0-9 and _.
func (p pattern) inWords(t []rune) bool {
	n := len(p.runes)
	if n == 0 {
		return false
	}
	if !p.wild {
		for j := 0; j+n <= len(t); j++ {
			if t[j] == p.runes[0] && (j == 0 || !word(t[j-1])) && (j+n == len(t) || !word(t[j+n])) && slices.Equal(t[j:j+n], p.runes) {
				return true
			}
		}
		return false
	}
	// at[i]: what is read so far can be the pattern's first i runes, begun at some boundary. All beginnings at once.
	at, next := make([]bool, n+1), make([]bool, n+1)
	skip := func(s []bool) { // a * may stand for nothing
		for i, r := range p.runes {
			if s[i] && r == '*' {
				s[i+1] = true
			}
		}
	}
	for j := 0; ; j++ {
		if j == 0 || !word(t[j-1]) {
			at[0] = true
			skip(at)
		}
		ends := j == len(t) || !word(t[j])
		if ends && at[n] {
			return true
		}
		if j == len(t) {
			return false
		}
		clear(next)
		for i, r := range p.runes {
			switch {
			case !at[i]:
			case r == '*':
				next[i] = true
			case r == '?' || r == t[j]:
				next[i+1] = true
			}
		}
		skip(next)
		at, next = next, at
	}
}

func word(r rune) bool {
	return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '_' // folded: no upper case
}

// path takes a dotted key apart: \. is a dot in a name, \\ a backslash; another \ stands for itself (C-S API, "Conditions":
// "dot-separated path").
func path(key string) []string {
	var parts []string
	var b strings.Builder
	for i := 0; i < len(key); i++ {
		switch c := key[i]; {
		case c == '\\' && i+1 < len(key) && (key[i+1] == '.' || key[i+1] == '\\'):
			i++
			b.WriteByte(key[i])
		case c == '.':
			parts = append(parts, b.String())
			b.Reset()
		default:
			b.WriteByte(c)
		}
	}
	return append(parts, b.String())
}
