// SPDX-License-Identifier: Apache-2.0

package onion

import "strings"

// maxEventFields bounds what one event line may make us keep; tor's longest have about 20.
const maxEventFields = 64

// event is an asynchronous line of tor's control port: `NAME a b KEY=v KEY2="quoted text"` (control-spec §4.1).
type event struct {
	name string
	args []string
	kv   map[string]string
}

// arg is the i-th positional argument, or "".
func (e event) arg(i int) string {
	if i < len(e.args) {
		return e.args[i]
	}
	return ""
}

// splitEvent takes a line apart. It never fails: what is malformed becomes a positional argument, and what comes after
// 64 fields is dropped. (bine splits at blanks inside quotes.)
func splitEvent(s string) event {
	e := event{kv: map[string]string{}}
	for range maxEventFields {
		s = strings.TrimLeft(s, " \t\r\n")
		if s == "" {
			break
		}
		var key, word string
		end := strings.IndexAny(s, " \t\r\n")
		if end < 0 {
			end = len(s)
		}
		if eq := strings.IndexByte(s[:end], '='); eq > 0 && strings.HasPrefix(s[eq+1:], `"`) {
			key = s[:eq]
			word, s = unquote(s[eq+2:])
		} else {
			word, s = s[:end], s[end:]
			if eq > 0 {
				key, word = word[:eq], word[eq+1:]
			}
		}
		switch {
		case e.name == "" && key == "":
			e.name = word
		case key != "":
			e.kv[key] = word
		default:
			e.args = append(e.args, word)
		}
	}
	return e
}

// unquote reads up to the closing quote (or the end), with C escapes of one character; rest is what follows it.
func unquote(s string) (text, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:]
		case c == '\\' && i+1 < len(s):
			i++
			switch s[i] {
			case 'n':
				b.WriteByte('\n')
			case 'r':
				b.WriteByte('\r')
			case 't':
				b.WriteByte('\t')
			default:
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), ""
}
