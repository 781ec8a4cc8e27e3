// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"flag"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

// docs/client-api.md is made of the table of routes, of what the tests did, and of the list of what is not there. All of
// the package's tests must have run to say of each endpoint that a test asks it, so it is held against them after the last one:
//
//	go test ./clientapi -table        writes it anew
//	go test ./clientapi               fails if it is stale
const tableFile = "../docs/client-api.md"

var writeTable = flag.Bool("table", false, "write "+tableFile)

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	whole := true // all tests, and none of them skipped
	for _, name := range []string{"run", "skip", "short", "fuzz", "list", "bench"} {
		if f := flag.Lookup("test." + name); f != nil && f.Value.String() != f.DefValue {
			whole = false
		}
	}
	if code == 0 && whole {
		if err := checkTable(); err != nil {
			fmt.Println("FAIL:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// passed are the tests that got a 2xx of an endpoint, or, of those that never give one, the answer that they should.
var passed asked

type asked struct {
	mu sync.Mutex
	by map[string]map[string]bool // pattern of the mux → tests
}

func (a *asked) note(pattern, test string) {
	test, _, _ = strings.Cut(test, "/")
	if pattern == "" || !strings.HasPrefix(test, "Test") {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.by == nil {
		a.by = map[string]map[string]bool{}
	}
	if a.by[pattern] == nil {
		a.by[pattern] = map[string]bool{}
	}
	a.by[pattern][test] = true
}

// tests of a route, by any of its paths.
func (a *asked) tests(r *route) map[string]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]bool{}
	for _, prefix := range r.in.prefixes() {
		for t := range a.by[r.method+" "+prefix+r.path] {
			out[t] = true
		}
	}
	return out
}

// width is how many endpoints a test had good answers of.
func (a *asked) width(test string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, tests := range a.by {
		if tests[test] {
			n++
		}
	}
	return n
}

// absent are the endpoints of the specification, and of clients, that are left out on purpose.
var absent = []struct{ method, path, why string }{
	{"GET", "/_matrix/client/v1/auth_metadata", "no OAuth 2.0: clients then log in by password, which is all that this node has"},
	{"GET", "/_matrix/client/v3/login/sso/redirect", "no single sign-on: it would tell another party who logs in"},
	{"GET", "/_matrix/client/v3/login/sso/redirect/{idpId}", "the same"},
	{"GET", "/_matrix/client/v3/auth/{authType}/fallback/web", "no stage of authentication needs a web page"},
	{"GET", "/_matrix/static/client/login/", "the same: every client can ask for a password itself"},
	{"GET", "/.well-known/matrix/support", "it would tell anybody who the operator is"},
	{"GET", "/_matrix/client/v1/media/preview_url", "to make one the node would have to visit what people write about"},
	{"GET", "/_matrix/media/v3/preview_url", "the same"},
	{"POST", "/_matrix/client/v1/appservice/{appserviceId}/ping", "no application services: bots log in as users"},
	{"PUT", "/_matrix/client/v3/directory/list/appservice/{networkId}/{roomId}", "the same"},
	{"GET", "/_matrix/client/v3/events", "deprecated: /sync"},
	{"GET", "/_matrix/client/v3/events/{eventId}", "deprecated: /rooms/{roomId}/event/{eventId}"},
	{"GET", "/_matrix/client/v3/initialSync", "deprecated: /sync"},
	{"GET", "/_matrix/client/v3/rooms/{roomId}/initialSync", "deprecated, and for guests: there are none"},
	{"GET", "/_matrix/client/v3/admin/whois/{userId}", "addresses of clients are not kept"},
	{"GET", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports", "no server for calls"},
	{"POST", "/_matrix/client/v3/user/{userId}/openid/request_token", "only another server's question over the network could use it, and there is no such network here"},
}

// denials are the endpoints that are there to say no, as the spec has it.
var denials = map[string]string{
	"turnServer": "404 M_NOT_FOUND: there is no TURN server", "thirdPartyNone": "404 M_NOT_FOUND: there are no bridges",
	"thirdPartyDenied": "403 M_THREEPID_DENIED: nobody here would send the mail",
}

func TestAbsentEndpointsSaySo(t *testing.T) {
	n := newNode(t)
	alice := n.person("alice")
	for _, x := range absent {
		alice.do(x.method, x.path, nil).fails(404, "M_UNRECOGNIZED")
	}
	for _, r := range table {
		want, found := denials[handlerName(r)]
		if !found {
			continue
		}
		for _, prefix := range r.in.prefixes() {
			a := alice.do(r.method, prefix+r.path, obj{})
			if code := fmt.Sprint(a.object()["errcode"]); !strings.HasPrefix(want, fmt.Sprintf("%d %s", a.status, code)) {
				t.Errorf("%s %s: %d %s, want %s", r.method, r.path, a.status, code, want)
			}
			passed.note(r.method+" "+prefix+r.path, t.Name())
		}
	}
	if o := alice.do("POST", "/account/3pid/delete", obj{"medium": "email", "address": "a@b"}).ok(); o["id_server_unbind_result"] != "no-support" {
		t.Error(o)
	}
	alice.do("POST", "/account/3pid/unbind", obj{"medium": "email", "address": "a@b"}).ok()
}

func handlerName(r route) string {
	name := runtime.FuncForPC(reflect.ValueOf(r.handle).Pointer()).Name()
	return name[strings.LastIndexByte(name, '.')+1:]
}

// endpointOf is a route as the table names it: by its youngest path.
func endpointOf(r *route) string {
	path := r.in.prefixes()[0] + strings.TrimSuffix(r.path, "/{$}")
	if strings.HasSuffix(r.path, "/{$}") {
		path += "/"
	}
	return r.method + " " + path
}

func checkTable() error {
	old, err := os.ReadFile(tableFile)
	if err != nil && !*writeTable {
		return err
	}
	// A test that the file names stays there as long as it is right: so a new test changes no other rows.
	named := map[string]string{}
	for line := range strings.SplitSeq(string(old), "\n") {
		if f := strings.Split(line, "|"); len(f) == 5 {
			named[strings.Trim(f[1], " `")] = strings.TrimSpace(f[3])
		}
	}
	var b strings.Builder
	b.WriteString(`# The Client-Server API: what is there

Made by ` + "`go test ./clientapi -table`" + ` of the table in clientapi/routes.go and of what the package's tests asked; a test
fails when it is stale. Paths under /_matrix/client/v3 are under r0, too. The test is one of those in which the endpoint gave what was asked for.

| endpoint | handler | test |
|---|---|---|
`)
	var bare []string
	for i := range table {
		r := &table[i]
		tests := passed.tests(r)
		name := endpointOf(r)
		test := named[name]
		if !tests[test] {
			test = "none"
			for t := range tests { // the one that asks the fewest others
				if n, m := passed.width(t), passed.width(test); test == "none" || n < m || n == m && t < test {
					test = t
				}
			}
		}
		if test == "none" {
			bare = append(bare, name)
		}
		handler := handlerName(*r)
		if no := denials[handler]; no != "" {
			handler += " (" + no + ")"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, handler, test)
	}
	b.WriteString("\n## Left out on purpose\n\nThey answer 404 M_UNRECOGNIZED, as everything does that is not there.\n\n| endpoint | why |\n|---|---|\n")
	for _, x := range absent {
		fmt.Fprintf(&b, "| `%s %s` | %s |\n", x.method, x.path, x.why)
	}
	if len(bare) > 0 {
		return fmt.Errorf("no test has a good answer of:\n  %s", strings.Join(slices.Compact(bare), "\n  "))
	}
	if b.String() == string(old) {
		return nil
	}
	if *writeTable {
		return os.WriteFile(tableFile, []byte(b.String()), 0o644)
	}
	return fmt.Errorf("%s is stale: run  go test ./clientapi -table  and commit it", tableFile)
}
