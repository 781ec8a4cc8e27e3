// SPDX-License-Identifier: Apache-2.0

package matrix

import (
	"strings"
	"testing"
)

func benchEvent(b *testing.B) []byte {
	p := proto("12", `{"body":"forty characters of a message, no more.","msgtype":"m.text"}`)
	p.AuthEvents = append(p.AuthEvents, EventID("$"+strings.Repeat("B", 42)+"A"), EventID("$"+strings.Repeat("C", 42)+"A"))
	return mustBuild(b, "12", p, alice).Raw()
}

func BenchmarkParse(b *testing.B) {
	raw := benchEvent(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse("12", raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	raw := benchEvent(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Load("12", someID, raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	e, _ := Parse("12", benchEvent(b))
	keys := keysOf(alice)
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Verify(keys); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	p := proto("12", `{"body":"forty characters of a message, no more.","msgtype":"m.text"}`)
	b.ReportAllocs()
	for b.Loop() {
		mustBuild(b, "12", p, alice)
	}
}
