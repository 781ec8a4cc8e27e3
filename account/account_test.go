// SPDX-License-Identifier: Apache-2.0

package account

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tarn/crypto/onionid"
	"tarn/matrix"
	"tarn/store"
)

const goodPassword = "correct horse"

func testServer(t testing.TB) matrix.ServerName {
	t.Helper()
	seed := sha256.Sum256([]byte("account tests"))
	return onionid.FromKey(ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey))
}

type node struct {
	*Accounts
	kv     store.KV
	stream *store.Stream
}

func open(t testing.TB, kv store.KV, o Options) node {
	t.Helper()
	if o.Server == "" {
		o.Server = testServer(t)
	}
	s, err := store.OpenStream(kv)
	if err != nil {
		t.Fatal(err)
	}
	a, err := Open(kv, s, o)
	if err != nil {
		t.Fatal(err)
	}
	return node{a, kv, s}
}

func newNode(t testing.TB) node { return open(t, store.OpenMemory(), Options{NoRateLimit: true}) }

// addUser makes a user without the cost of a password.
func (n node) addUser(t testing.TB, name string) matrix.UserID {
	t.Helper()
	user := n.userID(name)
	if err := n.kv.Update(func(txn store.Txn) error {
		return errors.Join(save(txn, store.Key(tableUser, name), userRow{}), save(txn, store.Key(tableProfile, name), Profile{DisplayName: name}))
	}); err != nil {
		t.Fatal(err)
	}
	return user
}

func (n node) login(t testing.TB, user matrix.UserID, l Login) Session {
	t.Helper()
	s, err := n.NewSession(user, l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantErr(t testing.TB, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || want == nil && got != nil {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// nothingIn fails if rows are left in some tables.
func (n node) nothingIn(t testing.TB, tables ...byte) {
	t.Helper()
	for _, table := range tables {
		wantErr(t, "counting rows", n.kv.View(func(r store.Reader) error {
			rows, err := count(r, []byte{table}, 10)
			if rows != 0 {
				t.Errorf("%d rows are left in table %#x", rows, table)
			}
			return err
		}), nil)
	}
}

func (n node) authErr(token string) error {
	_, err := n.Authenticate(token)
	return err
}

func TestOpenRefusesAServerThatIsNoOnion(t *testing.T) {
	if _, err := Open(store.OpenMemory(), nil, Options{Server: "example.org"}); err == nil {
		t.Error("accepted")
	}
}

func TestCreateThenPassword(t *testing.T) {
	n := newNode(t)
	user, err := n.Create("alice", goodPassword)
	if err != nil {
		t.Fatal(err)
	}
	if want := matrix.UserID("@alice:" + string(testServer(t))); user != want {
		t.Errorf("user is %s, want %s", user, want)
	}
	wantErr(t, "right password", n.CheckPassword(user, goodPassword, "a"), nil)
	wantErr(t, "wrong password", n.CheckPassword(user, goodPassword+"x", "a"), ErrForbidden)
	wantErr(t, "empty password", n.CheckPassword(user, "", "a"), ErrForbidden)
	wantErr(t, "long password", n.CheckPassword(user, strings.Repeat("x", 1<<20), "a"), ErrForbidden)
	wantErr(t, "unknown user", n.CheckPassword(n.userID("bob"), goodPassword, "a"), ErrForbidden)
	wantErr(t, "another server's user", n.CheckPassword("@alice:example.org", goodPassword, "a"), ErrForbidden)
	wantErr(t, "no user id", n.CheckPassword("alice", goodPassword, "a"), ErrForbidden)
	_, err = n.Create("alice", goodPassword)
	wantErr(t, "a second alice", err, ErrUserInUse)
	_, err = n.Create("bob", "short")
	wantErr(t, "short password", err, ErrWeakPassword)
	_, err = n.Create("bob", strings.Repeat("x", MaxPassword+1))
	wantErr(t, "long password", err, ErrLongPassword)
	for _, name := range []string{"", "Alice", "al ice", "älice", "alice:x", "a\x00", "@alice", strings.Repeat("a", 200)} {
		_, err := n.Create(name, goodPassword)
		wantErr(t, fmt.Sprintf("name %q", name), err, ErrBadUserName)
	}
	p, err := n.Profile(user)
	if err != nil || p.DisplayName != "alice" {
		t.Errorf("profile %v, %v", p, err)
	}
}

func TestDatabaseHasNoPasswordsOrTokens(t *testing.T) {
	n := newNode(t)
	user, err := n.Create("alice", goodPassword)
	if err != nil {
		t.Fatal(err)
	}
	s := n.login(t, user, Login{Refresh: true})
	invitation, err := n.NewRegistrationToken(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.kv.View(func(r store.Reader) error {
		return r.Scan(nil, nil, func(k, v []byte) (bool, error) {
			for _, secret := range []string{goodPassword, s.AccessToken, s.RefreshToken, invitation} {
				if strings.Contains(string(k)+string(v), secret) {
					t.Errorf("row %x holds a secret", k)
				}
			}
			return true, nil
		})
	}); err != nil {
		t.Fatal(err)
	}
}

// TestAccountsSurviveReopening: what was answered is in the database on the disk.
func TestAccountsSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	kv, err := store.OpenBadger(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n := open(t, kv, Options{})
	user, err := n.Create("alice", goodPassword)
	if err != nil {
		t.Fatal(err)
	}
	s := n.login(t, user, Login{Device: "PHONE", Name: "phone"})
	if err := n.SetData(user, "", "m.direct", []byte(`{"a":1}`)); err != nil {
		t.Fatal(err)
	}
	if err := kv.Close(); err != nil {
		t.Fatal(err)
	}
	if kv, err = store.OpenBadger(dir, store.Options{}); err != nil {
		t.Fatal(err)
	}
	defer kv.Close()
	n = open(t, kv, Options{})
	wantErr(t, "password", n.CheckPassword(user, goodPassword, ""), nil)
	if r, err := n.Authenticate(s.AccessToken); err != nil || r.User != user || r.Device != "PHONE" {
		t.Errorf("token: %v, %v", r, err)
	}
	if d, err := n.Data(user, "", "m.direct"); err != nil || string(d) != `{"a":1}` {
		t.Errorf("data: %s, %v", d, err)
	}
	if l, err := n.DataSince(user, 0, n.stream.Current()); err != nil || len(l) != 1 {
		t.Errorf("data since 0: %v, %v", l, err)
	}
}

func TestUsersAreSortedAndExist(t *testing.T) {
	n := newNode(t)
	for _, name := range []string{"carol", "alice", "bob", "b"} {
		n.addUser(t, name)
	}
	users, err := n.Users()
	if err != nil || !slices.Equal(users, []matrix.UserID{n.userID("alice"), n.userID("b"), n.userID("bob"), n.userID("carol")}) {
		t.Errorf("%v, %v", users, err)
	}
	for user, want := range map[matrix.UserID]bool{n.userID("bob"): true, n.userID("bo"): false, "@bob:example.org": false, "": false} {
		if ok, err := n.Exists(user); err != nil || ok != want {
			t.Errorf("Exists(%q) = %v, %v", user, ok, err)
		}
	}
}

func TestDeactivatedUserIsGoneButTheNameStaysTaken(t *testing.T) {
	n := newNode(t)
	user, err := n.Create("alice", goodPassword)
	if err != nil {
		t.Fatal(err)
	}
	other := n.addUser(t, "alice2")
	keep := n.login(t, other, Login{})
	s := n.login(t, user, Login{})
	if err := n.SetData(user, "", "m.direct", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	if err := n.Deactivate(user); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "password", n.CheckPassword(user, goodPassword, ""), ErrForbidden)
	wantErr(t, "token", n.authErr(s.AccessToken), ErrUnknownToken)
	wantErr(t, "another's token", n.authErr(keep.AccessToken), nil)
	_, err = n.NewSession(user, Login{})
	wantErr(t, "login", err, ErrDeactivated)
	wantErr(t, "name", n.Available("alice"), ErrUserInUse)
	wantErr(t, "again", n.Deactivate(user), ErrDeactivated)
	_, err = n.Data(user, "", "m.direct")
	wantErr(t, "data", err, ErrNotFound)
	if users, _ := n.Users(); !slices.Equal(users, []matrix.UserID{other}) {
		t.Errorf("users: %v", users)
	}
}

func TestSetPasswordEndsTheOtherSessions(t *testing.T) {
	n := newNode(t)
	user, err := n.Create("alice", goodPassword)
	if err != nil {
		t.Fatal(err)
	}
	a, b := n.login(t, user, Login{Device: "A"}), n.login(t, user, Login{Device: "B"})
	if err := n.SetPassword(user, "another password", false, "A"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "B before", n.authErr(b.AccessToken), nil)
	if err := n.SetPassword(user, "a third password", true, "A"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "A", n.authErr(a.AccessToken), nil)
	wantErr(t, "B", n.authErr(b.AccessToken), ErrUnknownToken)
	wantErr(t, "old password", n.CheckPassword(user, goodPassword, ""), ErrForbidden)
	wantErr(t, "new password", n.CheckPassword(user, "a third password", ""), nil)
	wantErr(t, "weak", n.SetPassword(user, "x", false, ""), ErrWeakPassword)
	wantErr(t, "unknown user", n.SetPassword(n.userID("bob"), goodPassword, false, ""), ErrNotFound)
}

func TestRegistrationTokenServesOnce(t *testing.T) {
	n := newNode(t)
	token, err := n.NewRegistrationToken(0)
	if err != nil {
		t.Fatal(err)
	}
	wantErr(t, "check", n.CheckRegistrationToken(token), nil)
	wantErr(t, "check of another", n.CheckRegistrationToken(token+"x"), ErrBadInvitation)
	_, err = n.Register("alice", "short", token)
	wantErr(t, "weak password", err, ErrWeakPassword)
	var wg sync.WaitGroup
	errs := make([]error, 6)
	for i := range errs {
		wg.Go(func() { _, errs[i] = n.Register(fmt.Sprint("user", i), goodPassword, token) })
	}
	wg.Wait()
	good := 0
	for _, err := range errs {
		if err == nil {
			good++
		} else {
			wantErr(t, "loser", err, ErrBadInvitation)
		}
	}
	if users, _ := n.Users(); good != 1 || len(users) != 1 {
		t.Errorf("%d registered, users %v", good, users)
	}
	wantErr(t, "used", n.CheckRegistrationToken(token), ErrBadInvitation)
	if _, err := n.Register("open", goodPassword, ""); err != nil {
		t.Error(err)
	}
}

func TestRegistrationTokenOfATakenNameIsNotUsedUp(t *testing.T) {
	n := newNode(t)
	n.addUser(t, "alice")
	token, err := n.NewRegistrationToken(0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Register("alice", goodPassword, token)
	wantErr(t, "taken name", err, ErrUserInUse)
	wantErr(t, "token", n.CheckRegistrationToken(token), nil)
}

func TestRegistrationTokensExpireAndAreSwept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		token, err := n.NewRegistrationToken(time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Minute)
		wantErr(t, "before", n.CheckRegistrationToken(token), nil)
		time.Sleep(2 * time.Minute)
		wantErr(t, "after", n.CheckRegistrationToken(token), ErrBadInvitation)
		_, err = n.Register("alice", goodPassword, token)
		wantErr(t, "register after", err, ErrBadInvitation)
		if _, err := n.NewRegistrationToken(0); err != nil {
			t.Fatal(err)
		}
		rows := 0
		n.kv.View(func(r store.Reader) error { rows, err = count(r, store.Key(tableInvite), 10); return err })
		if rows != 1 || err != nil {
			t.Errorf("%d rows of tokens, %v", rows, err)
		}
		for range maxInvitations - 1 {
			if _, err := n.NewRegistrationToken(0); err != nil {
				t.Fatal(err)
			}
		}
		_, err = n.NewRegistrationToken(0)
		wantErr(t, "too many", err, ErrTooLarge)
	})
}

func TestProfile(t *testing.T) {
	n := newNode(t)
	user := n.addUser(t, "alice")
	set := func(user matrix.UserID, p Profile) error {
		return n.ChangeProfile(user, func(old *Profile) { *old = p })
	}
	want := Profile{DisplayName: "Alice ☺", AvatarURL: "mxc://x/y"}
	if err := set(user, want); err != nil {
		t.Fatal(err)
	}
	if p, err := n.Profile(user); err != nil || !reflect.DeepEqual(p, want) {
		t.Errorf("%v, %v", p, err)
	}
	wantErr(t, "long name", set(user, Profile{DisplayName: strings.Repeat("x", MaxName+1)}), ErrTooLarge)
	wantErr(t, "long URL", set(user, Profile{AvatarURL: strings.Repeat("x", MaxAvatarURL+1)}), ErrTooLarge)
	wantErr(t, "unknown user", set(n.userID("bob"), want), ErrNotFound)
	_, err := n.Profile("@alice:example.org")
	wantErr(t, "another server's", err, ErrNotFound)
	// Two clients that each change one half do not undo each other.
	var wg sync.WaitGroup
	wg.Go(func() { n.ChangeProfile(user, func(p *Profile) { p.DisplayName = "A" }) })
	wg.Go(func() { n.ChangeProfile(user, func(p *Profile) { p.AvatarURL = "mxc://b" }) })
	wg.Wait()
	if p, _ := n.Profile(user); p.DisplayName != "A" || p.AvatarURL != "mxc://b" {
		t.Errorf("%v", p)
	}
}

// eachKV runs a benchmark in memory, and on a disk.
func eachKV(b *testing.B, run func(*testing.B, store.KV)) {
	for name, openKV := range map[string]func() store.KV{
		"memory": store.OpenMemory,
		"badger": func() store.KV {
			kv, err := store.OpenBadger(b.TempDir(), store.Options{})
			if err != nil {
				b.Fatal(err)
			}
			return kv
		},
	} {
		b.Run(name, func(b *testing.B) {
			kv := openKV()
			defer kv.Close()
			run(b, kv)
		})
	}
}
