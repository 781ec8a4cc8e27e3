// SPDX-License-Identifier: Apache-2.0

package account

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// try makes attempts until one is refused; it returns how many were let through, and for how long it must wait.
func try(t *testing.T, l *limiter, user, remote string, n int) (passed int, wait time.Duration) {
	t.Helper()
	for range n {
		_, err := l.attempt(user, remote)
		var limited Limited
		if errors.As(err, &limited) {
			if !errors.Is(err, ErrLimited) || limited.RetryAfter <= 0 {
				t.Errorf("bad error %v, wait %v", err, limited.RetryAfter)
			}
			return passed, limited.RetryAfter
		}
		if err != nil {
			t.Fatal(err)
		}
		passed++
	}
	return passed, 0
}

func TestGuesserIsSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter()
		passed, wait := try(t, l, "alice", "x", 1000)
		if passed != perPair.burst || wait != perPair.period {
			t.Errorf("%d passed, then wait %v", passed, wait)
		}
		time.Sleep(wait)
		if passed, _ := try(t, l, "alice", "x", 10); passed != 1 {
			t.Errorf("after the wait %d passed", passed)
		}
		day := 0
		for end := time.Now().Add(24 * time.Hour); time.Now().Before(end); {
			p, w := try(t, l, "alice", "x", 1000)
			day += p
			time.Sleep(w)
		}
		if day > 8700 {
			t.Errorf("%d guesses a day", day)
		}
	})
}

func TestGuesserOfManyUsersIsSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter()
		passed := 0
		for i := range 1000 {
			p, _ := try(t, l, fmt.Sprint("user", i), "x", 1)
			passed += p
		}
		if passed != perRemote.burst {
			t.Errorf("%d passed", passed)
		}
	})
}

func TestGuessersElsewhereDoNotLockTheFamilyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter()
		giveBack, err := l.attempt("alice", "home")
		if err != nil {
			t.Fatal(err)
		}
		giveBack()
		passed := 0
		for i := range 1000 {
			p, _ := try(t, l, "alice", fmt.Sprint("botnet", i), 1)
			passed += p
		}
		if passed != perUser.burst {
			t.Errorf("the botnet had %d attempts", passed)
		}
		if _, err := l.attempt("alice", "home"); err != nil {
			t.Errorf("alice at home: %v", err)
		}
		if _, err := l.attempt("bob", "home"); err != nil {
			t.Errorf("bob at home: %v", err)
		}
	})
}

func TestRightPasswordsAreNotCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter()
		for range 1000 {
			giveBack, err := l.attempt("alice", "x")
			if err != nil {
				t.Fatal(err)
			}
			giveBack()
		}
	})
}

func TestLimiterMemoryIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter()
		for i := range 3 * maxBuckets {
			giveBack, err := l.attempt(fmt.Sprint("user", i), fmt.Sprint("remote", i))
			if err != nil {
				t.Fatal(err)
			}
			giveBack()
		}
		if len(l.buckets) > maxBuckets || len(l.known) > maxBuckets {
			t.Errorf("%d buckets, %d known", len(l.buckets), len(l.known))
		}
	})
}

func TestCheckPasswordIsLimited(t *testing.T) {
	n := newNode(t)
	n.limits = newLimiter()
	user := n.addUser(t, "alice")
	n.limits.mu.Lock()
	b := n.limits.bucket(limitKey{user: string(user), remote: "x"}, perPair, time.Now())
	for range perPair.burst {
		b.spend(time.Now())
	}
	n.limits.mu.Unlock()
	wantErr(t, "beyond the limit", n.CheckPassword(user, "wrong password", "x"), ErrLimited)
	wantErr(t, "from elsewhere", n.CheckPassword(user, "wrong password", "y"), ErrForbidden)
}
