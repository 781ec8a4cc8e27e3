// SPDX-License-Identifier: Apache-2.0

package account

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"tarn/matrix"
	"tarn/store"
)

func TestLoginGivesATokenOfItsDevice(t *testing.T) {
	n := newNode(t)
	user := n.addUser(t, "alice")
	s := n.login(t, user, Login{Name: "phone"})
	if s.RefreshToken != "" || s.ExpiresIn != 0 || s.User != user || len(s.Device) != 10 {
		t.Errorf("session %+v", s)
	}
	if r, err := n.Authenticate(s.AccessToken); err != nil || r != (Requester{User: user, Device: s.Device}) {
		t.Errorf("%v, %v", r, err)
	}
	for _, bad := range []string{"", "x", s.AccessToken + "x", s.AccessToken[:len(s.AccessToken)-1], string(s.Device)} {
		wantErr(t, fmt.Sprintf("token %q", bad), n.authErr(bad), ErrUnknownToken)
	}
	_, err := n.NewSession(n.userID("bob"), Login{})
	wantErr(t, "unknown user", err, ErrNotFound)
	for _, id := range []matrix.DeviceID{"a\nb", "\x7f", matrix.DeviceID(strings.Repeat("x", 256)), "\xff"} {
		_, err := n.NewSession(user, Login{Device: id})
		wantErr(t, fmt.Sprintf("device %q", id), err, ErrBadDevice)
	}
}

func TestLoginOnAnExistingDeviceEndsItsOldTokens(t *testing.T) {
	n := newNode(t)
	user, other := n.addUser(t, "alice"), n.addUser(t, "bob")
	old := n.login(t, user, Login{Device: "D", Name: "first", Refresh: true})
	bobs := n.login(t, other, Login{Device: "D"})
	now := n.login(t, user, Login{Device: "D", Name: "second"})
	wantErr(t, "old access token", n.authErr(old.AccessToken), ErrUnknownToken)
	_, err := n.Refresh(old.RefreshToken)
	wantErr(t, "old refresh token", err, ErrUnknownToken)
	wantErr(t, "new", n.authErr(now.AccessToken), nil)
	wantErr(t, "bob's device of that name", n.authErr(bobs.AccessToken), nil)
	if d, err := n.Devices(user); err != nil || len(d) != 1 || d[0].Name != "first" {
		t.Errorf("%v, %v", d, err)
	}
	if n := tokenRows(t, n); n != 2 {
		t.Errorf("%d rows of tokens for two sessions", n)
	}
}

func tokenRows(t testing.TB, n node) (rows int) {
	t.Helper()
	if err := n.kv.View(func(r store.Reader) error {
		for _, table := range []byte{tableAccess, tableRefresh} {
			c, err := count(r, store.Key(table), 1000)
			if err != nil {
				return err
			}
			rows += c
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestAccessTokenExpiresAndIsRefreshed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := open(t, store.OpenMemory(), Options{TokenLife: 10 * time.Minute})
		user := n.addUser(t, "alice")
		s := n.login(t, user, Login{Refresh: true})
		if s.ExpiresIn != 10*time.Minute {
			t.Errorf("expires in %v", s.ExpiresIn)
		}
		forever := n.login(t, user, Login{})
		time.Sleep(10*time.Minute - time.Second)
		wantErr(t, "before", n.authErr(s.AccessToken), nil)
		time.Sleep(time.Second)
		wantErr(t, "after", n.authErr(s.AccessToken), ErrSoftLogout)
		next, err := n.Refresh(s.RefreshToken)
		if err != nil || next.User != user || next.Device != s.Device {
			t.Fatalf("%+v, %v", next, err)
		}
		wantErr(t, "new", n.authErr(next.AccessToken), nil)
		wantErr(t, "old after the new was used", n.authErr(s.AccessToken), ErrUnknownToken)
		time.Sleep(365 * 24 * time.Hour)
		wantErr(t, "a token that does not expire", n.authErr(forever.AccessToken), nil)
	})
}

func TestLostRefreshAnswerCanBeAskedForAgain(t *testing.T) {
	n := newNode(t)
	s := n.login(t, n.addUser(t, "alice"), Login{Refresh: true})
	lost, err := n.Refresh(s.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, "old access token while the new is unused", n.authErr(s.AccessToken), nil)
	again, err := n.Refresh(s.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, "lost pair", n.authErr(lost.AccessToken), ErrUnknownToken)
	_, err = n.Refresh(lost.RefreshToken)
	wantErr(t, "lost refresh token", err, ErrUnknownToken)
	wantErr(t, "new pair", n.authErr(again.AccessToken), nil)
	_, err = n.Refresh(s.RefreshToken)
	wantErr(t, "replay of the old refresh token after the new pair's use", err, ErrUnknownToken)
	// Using the new refresh token, not the access token, ends the old pair as well.
	third, err := n.Refresh(again.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	fourth, err := n.Refresh(third.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Refresh(again.RefreshToken)
	wantErr(t, "replay two generations later", err, ErrUnknownToken)
	wantErr(t, "fourth", n.authErr(fourth.AccessToken), nil)
	if rows := tokenRows(t, n); rows != 2 {
		t.Errorf("%d rows of tokens for one settled session", rows)
	}
}

func TestConcurrentRefreshesLeaveOneSession(t *testing.T) {
	n := newNode(t)
	s := n.login(t, n.addUser(t, "alice"), Login{Refresh: true})
	got := make([]Session, 8)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() { got[i], _ = n.Refresh(s.RefreshToken) })
	}
	wg.Wait()
	alive := 0
	for _, g := range got {
		if n.authErr(g.AccessToken) == nil {
			alive++
		}
	}
	if alive != 1 || tokenRows(t, n) != 2 {
		t.Errorf("%d new access tokens are good, %d rows", alive, tokenRows(t, n))
	}
}

func TestLogoutEndsExactlyItsSession(t *testing.T) {
	n := newNode(t)
	user, other := n.addUser(t, "alice"), n.addUser(t, "alic")
	a, b, c := n.login(t, user, Login{Device: "A", Refresh: true}), n.login(t, user, Login{Device: "AB"}), n.login(t, other, Login{Device: "A"})
	if err := n.Logout(user, "A"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "A", n.authErr(a.AccessToken), ErrUnknownToken)
	_, err := n.Refresh(a.RefreshToken)
	wantErr(t, "A's refresh token", err, ErrUnknownToken)
	wantErr(t, "AB", n.authErr(b.AccessToken), nil)
	wantErr(t, "again", n.Logout(user, "A"), ErrNotFound)
	if err := n.LogoutAll(user); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "AB after all", n.authErr(b.AccessToken), ErrUnknownToken)
	wantErr(t, "another user's", n.authErr(c.AccessToken), nil)
	if rows := tokenRows(t, n); rows != 1 {
		t.Errorf("%d rows of tokens are left", rows)
	}
}

func TestDevicesAreNamedAndSeenByDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		user := n.addUser(t, "alice")
		s := n.login(t, user, Login{Device: "B", Name: strings.Repeat("ä", 200)})
		n.login(t, user, Login{Device: "A"})
		time.Sleep(50*time.Hour + 17*time.Second)
		wantErr(t, "auth", n.authErr(s.AccessToken), nil)
		if err := n.SetDeviceName(user, "A", "phone"); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "no such device", n.SetDeviceName(user, "C", "x"), ErrNotFound)
		wantErr(t, "long name", n.SetDeviceName(user, "A", strings.Repeat("x", MaxName+1)), ErrTooLarge)
		d, err := n.Devices(user)
		if err != nil || len(d) != 2 || d[0].ID != "A" || d[0].Name != "phone" || d[1].ID != "B" || d[1].Name != strings.Repeat("ä", MaxName/2) {
			t.Fatalf("%v, %v", d, err)
		}
		if day := time.Now().UTC().Truncate(24 * time.Hour); !d[1].LastSeen.Equal(day) || !d[0].LastSeen.Equal(day.Add(-48*time.Hour)) {
			t.Errorf("last seen %v and %v on %v", d[0].LastSeen, d[1].LastSeen, day)
		}
	})
}

func TestDevicesAreBounded(t *testing.T) {
	n := newNode(t)
	user := n.addUser(t, "alice")
	for i := range MaxDevices {
		n.login(t, user, Login{Device: matrix.DeviceID(fmt.Sprint(i))})
	}
	_, err := n.NewSession(user, Login{})
	wantErr(t, "one more", err, ErrTooLarge)
	n.login(t, user, Login{Device: "7"}) // an old one still can
}

// TestSessionsAgreeWithAModel: in any sequence of logins, refreshes, uses and logouts, exactly the tokens are good that should be.
func TestSessionsAgreeWithAModel(t *testing.T) {
	type tokens struct{ access, refresh string }
	rapid.Check(t, func(rt *rapid.T) {
		n := newNode(t)
		user := n.addUser(t, "alice")
		devices := []matrix.DeviceID{"A", "B"}
		type session struct{ cur, prev *tokens }
		model := map[matrix.DeviceID]*session{}
		var all []tokens
		owner := func(tok string) (matrix.DeviceID, *session, bool) {
			for d, s := range model {
				if s.cur.access == tok || s.cur.refresh == tok {
					return d, s, true
				}
				if s.prev != nil && (s.prev.access == tok || s.prev.refresh == tok) {
					return d, s, false
				}
			}
			return "", nil, false
		}
		for range rapid.IntRange(1, 15).Draw(rt, "steps") {
			d := rapid.SampledFrom(devices).Draw(rt, "device")
			switch op := rapid.SampledFrom([]string{"login", "logout", "refresh", "use"}).Draw(rt, "op"); {
			case op == "login":
				s, err := n.NewSession(user, Login{Device: d, Refresh: true})
				if err != nil {
					rt.Fatal(err)
				}
				tk := tokens{s.AccessToken, s.RefreshToken}
				all = append(all, tk)
				model[d] = &session{cur: &tk}
			case op == "logout":
				err := n.Logout(user, d)
				if (err == nil) != (model[d] != nil) {
					rt.Fatalf("logout of %s: %v", d, err)
				}
				delete(model, d)
			case len(all) == 0:
			case op == "refresh":
				tok := rapid.SampledFrom(all).Draw(rt, "token").refresh
				_, m, current := owner(tok)
				s, err := n.Refresh(tok)
				if (err == nil) != (m != nil) {
					rt.Fatalf("refresh: %v, the model says %v", err, m != nil)
				}
				if m != nil {
					tk := tokens{s.AccessToken, s.RefreshToken}
					all = append(all, tk)
					if current {
						m.prev = m.cur
					}
					m.cur = &tk
				}
			case op == "use":
				tok := rapid.SampledFrom(all).Draw(rt, "token").access
				d, m, current := owner(tok)
				r, err := n.Authenticate(tok)
				if (err == nil) != (m != nil) || err == nil && r.Device != d {
					rt.Fatalf("use: %v %v, the model says %v %v", r, err, d, m != nil)
				}
				if current {
					m.prev = nil
				}
			}
		}
		want := 0
		for _, s := range model {
			want += 2
			if s.prev != nil {
				want += 2
			}
		}
		if got := tokenRows(t, n); got != want {
			rt.Fatalf("%d rows of tokens, want %d", got, want)
		}
	})
}

func BenchmarkAuthenticate(b *testing.B) {
	eachKV(b, func(b *testing.B, kv store.KV) {
		n := open(b, kv, Options{})
		user := n.addUser(b, "alice")
		s := n.login(b, user, Login{})
		b.ReportAllocs()
		for b.Loop() {
			if _, err := n.Authenticate(s.AccessToken); err != nil {
				b.Fatal(err)
			}
		}
	})
}
