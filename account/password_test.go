// SPDX-License-Identifier: Apache-2.0

package account

import (
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"tarn/matrix"
	"tarn/store"
)

func TestHashVerifiesOnlyItsPassword(t *testing.T) {
	h := newHasher()
	a, b := h.hash(goodPassword), h.hash(goodPassword)
	if a == b {
		t.Error("two hashes of one password are equal: no salt")
	}
	if good, old := h.verify(a, goodPassword); !good || old {
		t.Errorf("good %v, old %v", good, old)
	}
	for _, wrong := range []string{"", goodPassword + " ", "Correct horse"} {
		if good, _ := h.verify(a, wrong); good {
			t.Errorf("%q is taken for the password", wrong)
		}
	}
	for _, stored := range []string{"", "$argon2id$", "plain"} {
		if good, _ := h.verify(stored, stored); good {
			t.Errorf("the stored %q lets its own text in", stored)
		}
	}
}

// TestPHCKnownAnswer: a vector of the reference implementation (phc-winner-argon2, src/test.c, Argon2id, t=2, m=2^16, p=1).
func TestPHCKnownAnswer(t *testing.T) {
	const stored = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
	if good, old := newHasher().verify(stored, "password"); !good || !old {
		t.Errorf("good %v, old %v; want both", good, old)
	}
}

func TestOldHashIsReplacedAtLogin(t *testing.T) {
	n := newNode(t)
	user := n.addUser(t, "alice")
	weak := phc{memory: 64, time: 1, threads: 1, salt: []byte("saltsalt"), key: make([]byte, 32)}
	weak.key = n.hasher.compute(weak, goodPassword)
	if err := n.replacePassword("alice", "", weak.String()); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "wrong", n.CheckPassword(user, "wrong password", ""), ErrForbidden)
	if got := stored(t, n, "alice"); got != weak.String() {
		t.Error("a wrong password replaced the hash")
	}
	wantErr(t, "right", n.CheckPassword(user, goodPassword, ""), nil)
	p, err := parsePHC(stored(t, n, "alice"))
	if err != nil || p.memory != argonMemory || p.time != argonTime {
		t.Errorf("not replaced: %v, %v", p, err)
	}
	wantErr(t, "right again", n.CheckPassword(user, goodPassword, ""), nil)
}

func stored(t *testing.T, n node, name string) string {
	t.Helper()
	var row userRow
	if err := n.kv.View(func(r store.Reader) (err error) {
		row, err = load[userRow](r, store.Key(tableUser, name))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return row.Password
}

// TestUnknownUserCostsAHash: the answer for a user that does not exist does as much work as a wrong password. A hash
// is told by the memory that it fills, which does not depend on how busy the machine is.
func TestUnknownUserCostsAHash(t *testing.T) {
	n := newNode(t)
	user, err := n.Create("alice", goodPassword)
	if err != nil {
		t.Fatal(err)
	}
	allocated := func(u matrix.UserID) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := n.CheckPassword(u, "wrong password", ""); !errors.Is(err, ErrForbidden) {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	const hash = 16 << 20 // less than one takes (19 MiB), more than anything else does
	if wrong, unknown := allocated(user), allocated(n.userID("nobody")); wrong < hash || unknown < hash {
		t.Errorf("a wrong password filled %d bytes, an unknown user %d", wrong, unknown)
	}
}

func TestTwoHashesAtOnceAndNoMore(t *testing.T) {
	h := newHasher()
	h <- struct{}{}
	h <- struct{}{}
	done := make(chan struct{})
	go func() { h.hash(goodPassword); close(done) }()
	select {
	case <-done:
		t.Fatal("a third hash ran beside two others")
	case <-time.After(100 * time.Millisecond): // four times as long as a hash takes
	}
	<-h
	<-done
	// And all of many get their turn.
	<-h
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { h.hash(goodPassword) })
	}
	wg.Wait()
}

func FuzzParsePHC(f *testing.F) {
	p := fresh()
	f.Add(p.String())
	f.Add("$argon2id$v=19$m=65536,t=2,p=4$c29tZXNhbHQ$RdescudvJCsgt3ub+b2dWRWJTmaasDoN")
	f.Add("$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$RdescudvJCsgt3ub+b2dWRWJTmaasDoN")
	f.Add("$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHQ$RdescudvJCsgt3ub+b2dWRWJTmaasDoN")
	f.Add("$argon2id$v=19$m=064,t=1,p=1$$")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePHC(s)
		if err != nil {
			return
		}
		if p.String() != s {
			t.Fatalf("%q read, and written as %q", s, p)
		}
		if p.memory > maxArgonMemory || p.time > maxArgonTime || p.threads == 0 || p.memory < 8*uint32(p.threads) || len(p.key) > maxArgonBytes {
			t.Fatalf("%q asks for too much", s)
		}
	})
}

// FuzzAvailable: any name either is refused or makes a user id that is read back as the same name.
func FuzzAvailable(f *testing.F) {
	for _, s := range []string{"alice", "", "Alice", "a.b-c_d=e/f+9", "a:b", "\x00", "ä"} {
		f.Add(s)
	}
	n := newNode(f)
	f.Fuzz(func(t *testing.T, name string) {
		if n.Available(name) != nil {
			return
		}
		back, ok := n.local(n.userID(name))
		if !ok || back != name {
			t.Fatalf("%q is available, but reads back as %q, %v", name, back, ok)
		}
	})
}

func BenchmarkCheckPassword(b *testing.B) {
	n := newNode(b)
	user, err := n.Create("alice", goodPassword)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := n.CheckPassword(user, goodPassword, ""); err != nil {
			b.Fatal(err)
		}
	}
}
