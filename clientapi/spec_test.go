// SPDX-License-Identifier: Apache-2.0

package clientapi

import (
	"encoding/json/v2"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// The files of testdata/spec hold the specification's own sentences, module by module, with what a client asks and what it must
// be answered. A file is one node. Its lines:
//
//	## a section              a test of its own; variables live on
//	> a sentence              what the requests below it show
//	alice POST /path {"a":1} = 403 M_FORBIDDEN
//	                          who asks (nobody: without a token; alice2: her second device), the method, the path under
//	                          /_matrix/client/v3 or from /_matrix on, [Header: value] perhaps, the body (JSON, or after ! whatever
//	                          it is, which may be made: specFileOf), the status and the errcode
//	  .a.b is "x"             of the answer: is, not, has, lacks, len, absent, present, matches; $ is the whole of it; keys with dots
//	                          stand in quotes; [type=x] is the first of a list whose type is x
//	  header Name is "x"     of a header; raw is "x": of the whole answer as it is
//	  picture is "png 3 2 1"  of an answer that is a picture: its kind, width, height and pictures (of an animation)
//	  name := .a.b            keeps it as $name, and of an mxc:// URI the last part as $name.id
//
// $name is a variable anywhere: in a path escaped, in JSON as it is. $server, $alice and so on are there from the beginning,
// $alice.device too; what devices sign is in speckeys_test.go. Each request is a case.
type specRun struct {
	n     *node
	vars  map[string]string
	who   map[string]*device
	owned map[string]*specKeys
	last  answer
}

// leastCases of each module: the tables do not shrink unseen.
var leastCases = map[string]int{"1-accounts": 244, "2-sync": 205, "3-rooms": 291, "4-e2ee": 271, "5-media": 226, "6-push": 377, "7-people": 281, "8-errors": 227, "9-threads": 89}

func TestSpec(t *testing.T) {
	files, err := filepath.Glob("testdata/spec/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	total := 0
	for _, file := range files {
		module := strings.TrimSuffix(filepath.Base(file), ".txt")
		t.Run(module, func(t *testing.T) {
			cases := specFile(t, file)
			total += cases
			t.Logf("%d cases", cases)
			if cases < leastCases[module] {
				t.Errorf("%d cases, %d were there", cases, leastCases[module])
			}
		})
	}
	t.Logf("%d cases in %d modules", total, len(files))
}

// TestSpecChecksCanFail: each kind of a check refuses what is not so.
func TestSpecChecksCanFail(t *testing.T) {
	s := &specRun{vars: map[string]string{"who": "alice"}}
	s.last = answer{header: map[string][]string{"X-A": {"b"}}, raw: `{"a":{"b.c":[1,"x",{"type":"t","v":"alice"}]},"s":"text"}`}
	for text, good := range map[string]bool{
		`.s is "text"`: true, `.s is "other"`: false, `.s not "other"`: true, `.s not "text"`: false, `.none is 1`: false,
		`.a."b.c" has "x"`: true, `.a."b.c" has "y"`: false, `.a."b.c" lacks "y"`: true, `.a."b.c" lacks 1`: false, `.a."b.c" len 3`: true, `.a."b.c" len 2`: false,
		`.a."b.c".0 is 1`: true, `.a."b.c".0 is 2`: false, `.a."b.c".-1.type is "t"`: true, `.a."b.c"[type=t].v is "$who"`: true, `.a."b.c"[type=u] present`: false,
		`.a."b.c"[type=u] absent`: true, `.a absent`: false, `.s matches ^te`: true, `.s matches ^x`: false, `.s has "ex"`: true, `.a has "b.c"`: true, `.a has "b"`: false,
		`header X-A is "b"`: true, `header X-A is "c"`: false, `raw has "text"`: true, `raw is ""`: false, `$ is {}`: false, `.s likes "x"`: false, `nonsense`: false, `.s is {`: false,
		`v := .s`: true, `v := .a`: false,
	} {
		if err := s.check(text); (err == nil) != good {
			t.Errorf("%s: %v", text, err)
		}
	}
	if s.vars["v"] != "text" {
		t.Error("a variable was not kept")
	}
}

func specFile(t *testing.T, file string) (cases int) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	s := &specRun{n: newNode(t, func(c *Config) { c.OpenRegistration = true }), who: map[string]*device{}, owned: map[string]*specKeys{}}
	s.vars = map[string]string{"server": string(s.n.server)}
	for _, name := range []string{"alice", "bob", "carol", "eve"} {
		d := s.n.person(name)
		s.who[name] = d
		s.vars[name], s.vars[name+".device"] = string(d.user), string(d.id)
	}
	// A section is a run of lines that is its own subtest.
	type line struct {
		n    int
		text string
	}
	sections, name := map[string][]line{}, "start"
	var order []string
	for i, text := range strings.Split(string(raw), "\n") {
		if title, ok := strings.CutPrefix(text, "## "); ok {
			name = title
		}
		if sections[name] == nil {
			order = append(order, name)
		}
		sections[name] = append(sections[name], line{i + 1, text})
	}
	for _, name := range order {
		t.Run(name, func(t *testing.T) {
			says := ""
			for _, l := range sections[name] {
				text := strings.TrimSpace(l.text)
				where := fmt.Sprintf("%s:%d: %s", file, l.n, says)
				switch {
				case text == "" || strings.HasPrefix(text, "#"):
				case strings.HasPrefix(text, "> "):
					says = text[2:]
				case l.text[0] == ' ':
					if err := s.check(text); err != nil {
						t.Errorf("%s\n\t%s: %v\n\t%s", where, text, err, s.last.raw)
					}
				default:
					cases++
					if says == "" {
						t.Errorf("%s no sentence", where)
					}
					if err := s.request(t, text); err != nil {
						t.Errorf("%s\n\t%v", where, err)
					}
				}
			}
		})
	}
	return cases
}

var specVar = regexp.MustCompile(`\$[a-z0-9_]+(\.[a-z0-9]+)?`)

// specNested are objects so deep, and so many brackets.
var specNested = regexp.MustCompile(`\$(nested|brackets)\.(\d+)`)

var specJSONOf = regexp.MustCompile(`\$json\.(\d+)\.([a-z0-9.]+)`)

// fill puts the variables in.
func (s *specRun) fill(text string, escape func(string) string) string {
	text = specSigned.ReplaceAllStringFunc(text, s.signed)
	text = specJSONOf.ReplaceAllStringFunc(text, func(v string) string { // a string of so many bytes, under a name
		m := specJSONOf.FindStringSubmatch(v)
		n, _ := strconv.Atoi(m[1])
		return specJSON(obj{m[2]: strings.Repeat("x", n)})
	})
	text = specNested.ReplaceAllStringFunc(text, func(v string) string {
		m := specNested.FindStringSubmatch(v)
		n, _ := strconv.Atoi(m[2])
		if m[1] == "brackets" {
			return strings.Repeat("[", n)
		}
		return strings.Repeat(`{"a":`, n-1) + "{}" + strings.Repeat("}", n-1)
	})
	return specVar.ReplaceAllStringFunc(text, func(v string) string {
		name := v[1:]
		value, found := s.vars[name]
		if rest := ""; !found && strings.Contains(name, ".") { // $room.x is $room and .x
			name, rest, _ = strings.Cut(name, ".")
			if value, found = s.vars[name]; found {
				return escape(value) + "." + rest
			}
		}
		if !found {
			return v
		}
		return escape(value)
	})
}

// device finds who asks; a digit at the end is another device of the same user.
func (s *specRun) device(who string) *device {
	if d := s.who[who]; d != nil {
		return d
	}
	d := s.n.person(strings.TrimRight(who, "0123456789"))
	s.who[who] = d
	s.vars[who], s.vars[who+".device"] = string(d.user), string(d.id)
	return d
}

var specHeader = regexp.MustCompile(`^\[([A-Za-z-]+): ([^\]]*)\] ?`)

func (s *specRun) request(t *testing.T, text string) error {
	at := strings.LastIndex(text, " = ")
	f := strings.SplitN(text, " ", 4)
	if at < 0 || len(f) < 4 {
		return fmt.Errorf("not a request: %s", text)
	}
	want := strings.Fields(text[at+3:])
	rest := strings.TrimSpace(strings.TrimSuffix(strings.SplitN(text[:at]+" ", " ", 4)[3], " "))
	path := s.fill(f[2], esc2)
	var body *string
	q := httptest.NewRequest(f[1], "/", nil)
	for {
		m := specHeader.FindStringSubmatch(rest)
		if m == nil {
			break
		}
		q.Header.Set(m[1], s.fill(m[2], same))
		rest = rest[len(m[0]):]
	}
	if raw, ok := strings.CutPrefix(rest, "!"); ok {
		raw = specFileOf(strings.ReplaceAll(raw, `\0`, "\x00"))
		body = &raw
	} else if rest != "" {
		filled := s.fill(rest, same)
		body = &filled
	}
	if !strings.HasPrefix(path, "/_matrix") && !strings.HasPrefix(path, "/.well") {
		path = "/_matrix/client/v3" + path
	}
	r := httptest.NewRequestWithContext(t.Context(), f[1], path, strings.NewReader(orEmpty(body)))
	for k, v := range q.Header {
		r.Header[k] = v
	}
	if f[0] != "nobody" && r.Header.Get("Authorization") == "" {
		r.Header.Set("Authorization", "Bearer "+s.device(f[0]).token)
	}
	w := httptest.NewRecorder()
	s.n.api.ServeHTTP(w, r)
	s.last = answer{t, text, w.Code, w.Header(), w.Body.String()}
	var o any
	var code string
	if json.Unmarshal(w.Body.Bytes(), &o) == nil {
		code, _ = specAt(o, "errcode").(string)
	}
	if w.Code < 300 {
		passed.note(r.Pattern, t.Name())
	}
	got := strings.TrimSpace(fmt.Sprint(w.Code, " ", code))
	if got != strings.Join(want, " ") {
		return fmt.Errorf("%s\n\tanswered %s: %s", text, got, w.Body)
	}
	if w.Header().Get("Access-Control-Allow-Origin") != "*" {
		return fmt.Errorf("%s: no CORS header", text)
	}
	return nil
}

func same(s string) string { return s }

// esc2 escapes a variable for a path's segment or a query's value.
func esc2(s string) string {
	return strings.NewReplacer("+", "%2B", "&", "%26", "#", "%23").Replace(esc(s))
}

func orEmpty(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// specPath takes .a."b.c".0[type=x] apart.
var specPath = regexp.MustCompile(`\."([^"]*)"|\.([^.\[ ]+)|\[([a-z_]+)=([^\]]*)\]`)

func (s *specRun) find(o any, path string) any {
	for _, m := range specPath.FindAllStringSubmatch(path, -1) {
		switch {
		case m[3] != "":
			l, _ := o.([]any)
			o = nil
			for _, x := range l {
				if specAt(x, m[3]) == s.fill(m[4], same) {
					o = x
					break
				}
			}
		default:
			o = specAt(o, s.fill(m[1]+m[2], same))
		}
	}
	return o
}

// specAt is a member of an object or an element of a list.
func specAt(o any, key string) any {
	switch x := o.(type) {
	case obj:
		return x[key]
	case []any:
		if i, err := strconv.Atoi(key); err == nil && i < 0 && -i <= len(x) {
			return x[len(x)+i]
		} else if err == nil && i >= 0 && i < len(x) {
			return x[i]
		}
	}
	return nil
}

// check is one line about the last answer.
func (s *specRun) check(text string) error {
	var o any
	_ = json.Unmarshal([]byte(s.last.raw), &o)
	if name, path, ok := strings.Cut(text, " := "); ok {
		v, ok := s.find(o, path).(string)
		if !ok {
			return fmt.Errorf("no string")
		}
		s.vars[name] = v
		if rest, ok := strings.CutPrefix(v, "mxc://"); ok {
			_, s.vars[name+".id"], _ = strings.Cut(rest, "/")
		}
		return nil
	}
	path, op, rest := "", "", ""
	if h, ok := strings.CutPrefix(text, "header "); ok {
		path, rest, _ = strings.Cut(h, " ")
		o = s.last.header.Get(path)
		op, rest, _ = strings.Cut(rest, " ")
	} else if r, ok := strings.CutPrefix(text, "raw "); ok {
		o = s.last.raw
		op, rest, _ = strings.Cut(r, " ")
	} else if r, ok := strings.CutPrefix(text, "picture "); ok {
		o = specPicture(s.last.raw)
		op, rest, _ = strings.Cut(r, " ")
	} else {
		m := regexp.MustCompile(`^(\$|(?:\."[^"]*"|\.[^.\[ ]+|\[[a-z_]+=[^\]]*\])+) (\w+) ?(.*)$`).FindStringSubmatch(text)
		if m == nil {
			return fmt.Errorf("not a check")
		}
		path, op, rest = m[1], m[2], m[3]
		if path != "$" {
			o = s.find(o, path)
		}
	}
	var want any
	if rest != "" && op != "matches" {
		if err := json.Unmarshal([]byte(s.fill(rest, same)), &want); err != nil {
			return fmt.Errorf("%v", err)
		}
	}
	contains := func() bool {
		switch x := o.(type) {
		case []any:
			for _, e := range x {
				if reflect.DeepEqual(e, want) {
					return true
				}
			}
		case string:
			w, ok := want.(string)
			return ok && strings.Contains(x, w)
		case obj:
			w, ok := want.(string)
			_, found := x[w]
			return ok && found
		}
		return false
	}
	size := func() any {
		switch x := o.(type) {
		case []any:
			return float64(len(x))
		case obj:
			return float64(len(x))
		case string:
			return float64(len(x))
		}
		return nil
	}
	good := false
	switch op {
	case "is":
		good = reflect.DeepEqual(o, want)
	case "not":
		good = !reflect.DeepEqual(o, want)
	case "has":
		good = contains()
	case "lacks":
		good = !contains()
	case "len":
		good = size() == want
	case "absent":
		good = o == nil
	case "present":
		good = o != nil
	case "matches":
		v, ok := o.(string)
		good = ok && regexp.MustCompile(s.fill(rest, regexp.QuoteMeta)).MatchString(v)
	default:
		return fmt.Errorf("no such check")
	}
	if !good {
		return fmt.Errorf("it is %v", o)
	}
	return nil
}
