// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/v2"
	"net/http/httptest"
	"strings"
	"testing"
)

func FuzzToken(f *testing.F) {
	for _, s := range []string{"s1_0", "s1_42", "s1_18446744073709551615", "s1_01", "s0_1", "", "s1_9999999999999999999999", "s2_5_3", "s2_5_5", "s2_5", "s2_5_03", "s2_5_3_1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, inbox, err := parseSyncToken(s)
		written := token(p)
		if inbox != p {
			written = syncToken(p, inbox)
		}
		if err == nil && written != s {
			t.Errorf("%q is read as the token %q", s, written)
		}
		if q, err2 := parseToken(s); (err == nil) != (err2 == nil) || q != p {
			t.Errorf("%q is %d to /sync and %d to others", s, p, q)
		}
	})
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{
		`{}`, `null`, `{"room":{"timeline":{"limit":20,"types":["m.room.*"]},"state":{"lazy_load_members":true},"include_leave":true}}`,
		`{"room":{"rooms":[],"not_rooms":["!a"]},"presence":{"not_types":["*"]},"event_fields":["content.body"],"event_format":"client"}`,
		`{"account_data":{"types":["***a***b"]}}`, `{"room":{"timeline":{"limit":-5}}}`, `{"room":{"timeline":{"limit":1e99}}}`,
	} {
		f.Add([]byte(s), "m.room.message")
	}
	f.Fuzz(func(t *testing.T, raw []byte, typ string) {
		if q, err := parseFilter(raw); err == nil {
			for _, e := range []*eventFilter{&q.AccountData, &q.Room.Timeline, &q.Room.State} {
				if e.all() && !e.keepsType(typ) {
					t.Errorf("a filter of everything drops %q", typ)
				}
				if e.Limit != nil && *e.Limit < 1 {
					t.Errorf("a limit of %d", *e.Limit)
				}
			}
		}
	})
}

func FuzzLoginBody(f *testing.F) {
	for _, s := range []string{
		`{"type":"m.login.password","identifier":{"type":"m.id.user","user":"alice"},"password":"x"}`,
		`{"type":"m.login.password","user":"@alice:x","password":"x","device_id":"D","refresh_token":true}`,
		`{"type":"m.login.password","identifier":null}`, `{}`, `[]`, `{"type":1}`, "\xff", `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"@"},"password":""}`,
	} {
		f.Add(s)
	}
	n := newNode(f)
	f.Fuzz(func(t *testing.T, body string) {
		q := httptest.NewRequest("POST", "/_matrix/client/v3/login", strings.NewReader(body))
		w := httptest.NewRecorder()
		n.api.ServeHTTP(w, q)
		var o obj
		if err := json.Unmarshal(w.Body.Bytes(), &o); err != nil {
			t.Fatalf("the answer is no JSON: %v", err)
		}
		// Nobody exists: nothing logs in, and nothing is our fault.
		if w.Code < 400 || w.Code >= 500 || o["errcode"] == nil {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

// FuzzRequest throws paths, queries and bodies at the whole table.
func FuzzRequest(f *testing.F) {
	n := newNode(f)
	alice := n.person("alice")
	for _, s := range [][3]string{
		{"GET", "/_matrix/client/v3/sync?since=s1_1&timeout=0&filter={}", ""},
		{"PUT", "/_matrix/client/v3/rooms/!r:x/send/m.room.message/1", `{"body":"x"}`},
		{"GET", "/_matrix/client/v3/rooms/!r/messages?dir=b&limit=-1&from=s1_5", ""},
		{"POST", "/_matrix/client/v3/createRoom", `{"preset":"private_chat","initial_state":[{"type":"m.x","content":{}}]}`},
		{"POST", "/_matrix/client/v3/rooms/!r/receipt/m.read/$e", `{"thread_id":"main"}`},
		{"PUT", "/_matrix/client/v3/rooms/!r/state/m.room.name/%2F..", `{"name":1}`},
		{"GET", "/_matrix/client/v3/rooms/%2e%2e/state/%00/", ""},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, method, target, body string) {
		q := httptest.NewRequest("GET", "/", strings.NewReader(body))
		q.Method = method
		u, err := q.URL.Parse(target)
		if err != nil || !strings.HasPrefix(u.Path, "/_matrix") {
			return
		}
		v := u.Query()
		v.Del("timeout")
		u.RawQuery = v.Encode()
		q.URL, q.RequestURI = u, ""
		q.Header.Set("Authorization", "Bearer "+alice.token)
		w := httptest.NewRecorder()
		n.api.ServeHTTP(w, q)
		if w.Code >= 500 {
			t.Errorf("%s %s: %d %s\n%s", method, target, w.Code, w.Body, n.log)
		}
		if w.Header().Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s %s: no CORS header", method, target)
		}
		if strings.HasSuffix(u.Path, "/logout") || strings.HasSuffix(u.Path, "/logout/all") {
			alice = n.person("alice")
		}
	})
}
