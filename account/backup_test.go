// SPDX-License-Identifier: Apache-2.0

package account

import (
	"encoding/json"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"tarn/matrix"
)

func session(first, forwarded int, verified bool, data string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"first_message_index":%d,"forwarded_count":%d,"is_verified":%v,"session_data":{"x":%q}}`, first, forwarded, verified, data))
}

func TestBackupVersionsComeAndGo(t *testing.T) {
	n := newNode(t)
	alice := n.addUser(t, "alice")
	_, err := n.Backup(alice, "")
	wantErr(t, "none yet", err, ErrNotFound)
	make := func() string {
		t.Helper()
		v, err := n.CreateBackup(alice, "m.megolm_backup.v1.curve25519-aes-sha2", json.RawMessage(`{"public_key":"x"}`))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	current := func(want string) {
		t.Helper()
		if b, err := n.Backup(alice, ""); err != nil || b.Version != want {
			t.Errorf("current is %q, %v, want %q", b.Version, err, want)
		}
	}
	one, two := make(), make()
	current(two)
	if one == two {
		t.Fatal("one version for two backups")
	}
	put := func(v string) error {
		_, err := n.PutBackup(alice, v, []BackedUp{{"!r:x", "s", session(0, 0, true, "d")}})
		return err
	}
	wantErr(t, "into the current", put(two), nil)
	err = put(one)
	wantErr(t, "into the older", err, ErrWrongBackup)
	if w, ok := err.(WrongBackup); !ok || w.Current != two {
		t.Errorf("%#v", err)
	}
	_, err = n.DropBackup(alice, "99", "", "")
	wantErr(t, "dropping from none", err, ErrNotFound)
	wantErr(t, "other auth data", n.SetBackupAuth(alice, two, "m.megolm_backup.v1.curve25519-aes-sha2", json.RawMessage(`{"public_key":"y"}`)), nil)
	wantErr(t, "another algorithm", n.SetBackupAuth(alice, two, "rsa", json.RawMessage(`{}`)), ErrBadKeys)
	wantErr(t, "no such version", n.SetBackupAuth(alice, "99", "rsa", json.RawMessage(`{}`)), ErrNotFound)
	if b, err := n.Backup(alice, two); err != nil || string(b.AuthData) != `{"public_key":"y"}` || b.Count != 1 {
		t.Errorf("%+v, %v", b, err)
	}
	for range 2 {
		wantErr(t, "delete", n.DeleteBackup(alice, two), nil)
	}
	current(one)
	for _, v := range []string{two, "99", "", "x", "01", "-1"} {
		_, err := n.BackedUp(alice, v, "", "")
		wantErr(t, "sessions of "+v, err, ErrNotFound)
		if v != two {
			wantErr(t, "delete "+v, n.DeleteBackup(alice, v), ErrNotFound)
		}
	}
	if three := make(); three == two || three == one {
		t.Errorf("version %s came again", three)
	}
	if rows := tableRows(t, n, tableBackupKey, "alice"); rows != 0 {
		t.Errorf("%d sessions of a deleted version are left", rows)
	}
	_, err = n.CreateBackup(alice, "x", json.RawMessage(`[]`))
	wantErr(t, "auth data that is no object", err, ErrBadJSON)
	_, err = n.CreateBackup(n.userID("nobody"), "x", json.RawMessage(`{}`))
	wantErr(t, "no such user", err, ErrNotFound)
}

// TestTheBetterBackupOfASessionStays: verified, then the lower first index, then the lower forwarded count (C-S API).
func TestTheBetterBackupOfASessionStays(t *testing.T) {
	for name, c := range map[string]struct {
		old, now json.RawMessage
		replaced bool
	}{
		"verified over unverified":     {session(0, 0, false, "old"), session(9, 9, true, "new"), true},
		"unverified over verified":     {session(9, 9, true, "old"), session(0, 0, false, "new"), false},
		"lower index":                  {session(5, 0, true, "old"), session(4, 9, true, "new"), true},
		"higher index":                 {session(5, 9, true, "old"), session(6, 0, true, "new"), false},
		"fewer forwards":               {session(5, 2, true, "old"), session(5, 1, true, "new"), true},
		"more forwards":                {session(5, 2, true, "old"), session(5, 3, true, "new"), false},
		"the same, with another datum": {session(5, 2, true, "old"), session(5, 2, true, "new"), false},
	} {
		n := newNode(t)
		alice := n.addUser(t, "alice")
		v, err := n.CreateBackup(alice, "a", json.RawMessage(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		before, err := n.PutBackup(alice, v, []BackedUp{{"!r:x", "s", c.old}})
		if err != nil {
			t.Fatal(err)
		}
		after, err := n.PutBackup(alice, v, []BackedUp{{"!r:x", "s", c.now}})
		if err != nil || after.Count != 1 || (after.ETag != before.ETag) != c.replaced {
			t.Errorf("%s: %+v then %+v, %v", name, before, after, err)
		}
		got, err := n.BackedUp(alice, v, "!r:x", "s")
		want := c.old
		if c.replaced {
			want = c.now
		}
		if err != nil || len(got) != 1 || string(got[0].Data) != string(want) {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}

func TestBackedUpSessionsAreChecked(t *testing.T) {
	n := newNode(t)
	alice := n.addUser(t, "alice")
	v, err := n.CreateBackup(alice, "a", json.RawMessage(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{`{}`, `{"first_message_index":0,"forwarded_count":0,"is_verified":true}`, `{"first_message_index":"0","forwarded_count":0,"is_verified":true,"session_data":{}}`,
		`{"first_message_index":-1,"forwarded_count":0,"is_verified":true,"session_data":{}}`, `{"first_message_index":0,"forwarded_count":0,"is_verified":null,"session_data":{}}`} {
		_, err := n.PutBackup(alice, v, []BackedUp{{"!r:x", "good", session(0, 0, true, "d")}, {"!r:x", "s", json.RawMessage(bad)}})
		wantErr(t, bad, err, ErrBadKeys)
	}
	_, err = n.PutBackup(alice, v, []BackedUp{{"", "s", session(0, 0, true, "d")}})
	wantErr(t, "no room", err, ErrTooLarge)
	if b, err := n.Backup(alice, v); err != nil || b.Count != 0 {
		t.Errorf("%+v, %v", b, err)
	}
}

// TestBackupAgreesWithAModel: count, sessions and scopes of deletion, with names of which some begin others.
func TestBackupAgreesWithAModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		n := newNode(t)
		alice := n.addUser(t, "alice")
		v, err := n.CreateBackup(alice, "a", json.RawMessage(`{}`))
		if err != nil {
			rt.Fatal(err)
		}
		model := map[[2]string]string{}
		rooms := rapid.SampledFrom([]string{"!a", "!ab", "!a\x00", "!b"})
		sessions := rapid.SampledFrom([]string{"s", "s1", "s/1+"})
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			r, s := rooms.Draw(rt, "room"), sessions.Draw(rt, "session")
			switch rapid.SampledFrom([]string{"put", "put", "drop", "drop room", "drop all"}).Draw(rt, "op") {
			case "put":
				data := session(0, 0, true, fmt.Sprintf("%x", r+s))
				_, err = n.PutBackup(alice, v, []BackedUp{{matrix.RoomID(r), s, data}})
				model[[2]string{r, s}] = string(data)
			case "drop":
				_, err = n.DropBackup(alice, v, matrix.RoomID(r), s)
				delete(model, [2]string{r, s})
			case "drop room":
				_, err = n.DropBackup(alice, v, matrix.RoomID(r), "")
				for k := range model {
					if k[0] == r {
						delete(model, k)
					}
				}
			case "drop all":
				_, err = n.DropBackup(alice, v, "", "")
				clear(model)
			}
			if err != nil {
				rt.Fatal(err)
			}
			b, err := n.Backup(alice, v)
			all, err2 := n.BackedUp(alice, v, "", "")
			if err != nil || err2 != nil || b.Count != len(model) || len(all) != len(model) {
				rt.Fatalf("%+v, %d listed, the model has %d; %v %v", b, len(all), len(model), err, err2)
			}
			for _, x := range all {
				if model[[2]string{string(x.Room), x.Session}] != string(x.Data) {
					rt.Fatalf("%q %q is %s", x.Room, x.Session, x.Data)
				}
			}
		}
	})
}
