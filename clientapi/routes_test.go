// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestUnknownPathsAnswerUnrecognizedInJSON(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/_matrix/client/v3/no/such", 404},
		{"GET", "/_matrix/client/v99/sync", 404},
		{"GET", "/_matrix/client/v3/", 404},
		{"GET", "/_matrix/client/v1/auth_metadata", 404},
		{"GET", "/_matrix/client/versions/", 404},
		{"GET", "/_matrix/federation/v1/version", 404},
		{"GET", "/_matrix//client/versions", 404}, // ServeMux would redirect
		{"GET", "/_matrix/client/../client/versions", 404},
		{"GET", "/_matrix/client/v3/./sync", 404},
		{"GET", "/", 404},
		{"DELETE", "/_matrix/client/v3/sync", 405},
		{"POST", "/_matrix/client/versions", 405},
		{"DELETE", "/_matrix/client/v3/pushrules/global/override/x/enabled", 405},
		{"GET", "/_matrix/client/r0/register", 405},
		{"PATCH", "/_matrix/client/v3/login", 405},
	} {
		for _, token := range []string{"", alice.token} {
			a := n.request(token, c.method, c.path, nil)
			a.fails(c.status, "M_UNRECOGNIZED")
			if got := a.header.Get("Content-Type"); got != "application/json" {
				t.Errorf("%s: content type %q", a.asked, got)
			}
			if got := a.header.Get("Location"); got != "" {
				t.Errorf("%s: redirects to %q", a.asked, got)
			}
		}
	}
}

func TestEveryAnswerHasCORSHeaders(t *testing.T) {
	n := newNode(t)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/_matrix/client/versions", 200},
		{"GET", "/_matrix/client/v3/sync", 401},
		{"GET", "/_matrix/client/v3/nothing", 404},
		{"DELETE", "/_matrix/client/v3/login", 405},
		{"OPTIONS", "/_matrix/client/v3/sync", 204}, // preflights carry no token
		{"OPTIONS", "/_matrix/client/v3/nothing", 204},
		{"OPTIONS", "/_matrix/media/v3/upload", 204},
		{"OPTIONS", "/a//b", 204},
	} {
		a := n.request("", c.method, c.path, nil)
		if a.status != c.status {
			t.Errorf("%s: status %d, want %d", a.asked, a.status, c.status)
		}
		for name, want := range map[string]string{
			"Access-Control-Allow-Origin":  "*",
			"Access-Control-Allow-Methods": "GET, POST, PUT, DELETE, OPTIONS",
			"Access-Control-Allow-Headers": "X-Requested-With, Content-Type, Authorization",
		} {
			if got := a.header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", a.asked, name, got, want)
			}
		}
	}
}

func TestEachRouteThatNeedsATokenSaysSo(t *testing.T) {
	n := newNode(t)
	for _, r := range table {
		if r.auth != user {
			continue
		}
		for _, prefix := range r.in.prefixes() {
			path := prefix + strings.ReplaceAll(r.path, "{$}", "")
			n.request("", r.method, path, nil).fails(401, "M_MISSING_TOKEN")
			o := n.request("tarn_at_nobody", r.method, path, nil).fails(401, "M_UNKNOWN_TOKEN")
			if o["soft_logout"] != false {
				t.Errorf("%s: soft_logout is %v", path, o["soft_logout"])
			}
		}
	}
}

func TestTokenIsTakenFromHeaderAndFromQuery(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	for _, v := range []string{"v3", "r0"} {
		path := "/_matrix/client/" + v + "/account/whoami"
		n.request(alice.token, "GET", path, nil).ok()
		o := n.request("", "GET", path+"?access_token="+alice.token, nil).ok()
		if o["user_id"] != string(alice.user) || o["device_id"] != string(alice.id) || o["is_guest"] != false {
			t.Errorf("whoami by query: %v", o)
		}
	}
}

func TestBodiesAreJudgedBeforeTheyAreUsed(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	filter := "/user/" + esc(alice.user) + "/filter"
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		code                     string
	}{
		{"no JSON", "POST", "/login", `{"type":`, 400, "M_NOT_JSON"},
		{"text", "POST", "/login", `hello`, 400, "M_NOT_JSON"},
		{"bad UTF-8", "POST", "/login", "{\"type\":\"\xff\"}", 400, "M_NOT_JSON"},
		{"double names", "POST", "/login", `{"type":"a","type":"b"}`, 400, "M_NOT_JSON"},
		{"a list", "POST", "/login", `[]`, 400, "M_BAD_JSON"},
		{"a number for text", "POST", "/login", `{"type":5}`, 400, "M_BAD_JSON"},
		{"text for a bool", "POST", "/createRoom", `{"is_direct":"yes"}`, 400, "M_BAD_JSON"},
		{"text for a list", "POST", "/createRoom", `{"invite":"@bob:x"}`, 400, "M_BAD_JSON"},
		{"empty where an object is due", "POST", filter, ``, 400, "M_NOT_JSON"},
		{"list where an object is due", "POST", filter, `[1]`, 400, "M_BAD_JSON"},
		{"null where an object is due", "POST", filter, `null`, 400, "M_BAD_JSON"},
		{"two values", "POST", filter, `{}{}`, 400, "M_NOT_JSON"},
		{"too large", "POST", filter, `{"x":"` + strings.Repeat("x", smallBody) + `"}`, 413, "M_TOO_LARGE"},
	} {
		t.Run(c.name, func(t *testing.T) {
			alice.do(c.method, c.path, c.body).fails(c.status, c.code)
		})
	}
}

func TestBodyOfUnknownLengthIsCutAtTheLimit(t *testing.T) {
	n := newNode(t)
	read := 0
	q := httptest.NewRequest("POST", "/_matrix/client/v3/login", readerFunc(func(b []byte) (int, error) {
		read += len(b)
		for i := range b {
			b[i] = ' '
		}
		return len(b), nil
	}))
	q.ContentLength = -1
	w := httptest.NewRecorder()
	n.api.ServeHTTP(w, q)
	if w.Code != http.StatusRequestEntityTooLarge {
		t.Fatalf("an endless body got %d", w.Code)
	}
	if read > 4*smallBody {
		t.Errorf("%d bytes were read of a body with a limit of %d", read, smallBody)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestPanicAnswers500WithoutItsWords(t *testing.T) {
	n := newNode(t)
	e := endpoint{n.api, route{path: "/boom", handle: func(*API, *call) (any, error) { panic("secret of @alice") }}}
	w := httptest.NewRecorder()
	e.ServeHTTP(w, httptest.NewRequest("GET", "/boom", nil))
	if w.Code != 500 || !strings.Contains(w.Body.String(), "M_UNKNOWN") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if strings.Contains(w.Body.String(), "secret") || strings.Contains(n.log.String(), "secret") {
		t.Error("the panic's words got out")
	}
	if !strings.Contains(n.log.String(), "/boom") {
		t.Errorf("the log does not say where: %s", n.log)
	}
}

func TestVersionsAndCapabilitiesTellWhatIsThere(t *testing.T) {
	n := newNode(t)
	v := n.request("", "GET", "/_matrix/client/versions", nil).ok()
	has := map[any]bool{}
	for _, s := range list(v, "versions") {
		has[s] = true
	}
	if !has["v1.4"] || !has["r0.6.1"] {
		t.Errorf("versions: %v", v)
	}
	if f, ok := v["unstable_features"].(obj); !ok || f["org.matrix.simplified_msc3575"] != true {
		t.Errorf("unstable_features: %v", v)
	}
	c := n.person("alice").do("GET", "/capabilities", nil).ok()
	if at(c, "capabilities", "m.room_versions", "default") != "12" ||
		at(c, "capabilities", "m.room_versions", "available", "11") != "stable" ||
		at(c, "capabilities", "m.change_password", "enabled") != true {
		t.Errorf("capabilities: %v", c)
	}
}

func TestWellKnownNamesTheBaseURL(t *testing.T) {
	n := newNode(t)
	o := n.request("", "GET", "/.well-known/matrix/client", nil).ok()
	if at(o, "m.homeserver", "base_url") != "http://127.0.0.1:8008" {
		t.Errorf("%v", o)
	}
	without := newNode(t, func(c *Config) { c.BaseURL = "" })
	without.request("", "GET", "/.well-known/matrix/client", nil).fails(404, "M_NOT_FOUND")
}
