// SPDX-License-Identifier: Apache-2.0

package tarn

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers says which of our packages each package may import (DESIGN §3). "x/*" is x's children. A package that is
// not listed fails the test: think where it stands. Tests may import what they like.
var layers = map[string][]string{
	".":                   {},
	"crypto/*":            {"crypto/*"},
	"internal/*":          {"crypto/*", "internal/*"},
	"matrix":              {"crypto/*"},
	"dag":                 {"matrix"},
	"dag/dagtest":         {"matrix", "dag", "crypto/*"},
	"mailbox":             {"crypto/*"},
	"bundle":              {"matrix", "mailbox", "crypto/*"},
	"onion":               {"crypto/onionid", "internal/durable"},
	"onion/oniontest":     {"onion", "crypto/onionid"},
	"onion/tornet":        {"onion", "internal/durable"},
	"store":               {"internal/durable"},
	"store/storetest":     {"store"},
	"account":             {"matrix", "store"},
	"room":                {"matrix", "dag", "store", "crypto/onionid"}, // onionid: the certificates that go with snapshots
	"replicate":           {"matrix", "dag", "room", "account", "media", "bundle", "mailbox", "store", "crypto/*"},
	"clientapi":           {"clientapi/*", "matrix", "room", "account", "media", "push", "store"}, // store: Pos and Stream, what a /sync token is and waits on
	"clientapi/sliding":   {"matrix", "store"},
	"mailbox/front":       {"mailbox", "crypto/*", "internal/durable"}, // hands requests on through interfaces
	"mailbox/courier":     {"mailbox", "crypto/*", "internal/durable"},
	"push":                {"matrix"},
	"media":               {"matrix", "store", "internal/durable"},
	"mailbox/store":       {"mailbox", "store", "crypto/*", "internal/durable"},
	"mailbox/mailboxtest": {"mailbox", "mailbox/*", "store", "crypto/*"},
	"configs":             {"mailbox", "replicate", "onion"},
	"admin":               {"internal/*"},
	"cmd/node":            {"!mailbox/store", "!mailbox/courier", "*"},
	"cmd/mailbox":         {"configs", "onion", "mailbox", "mailbox/*", "discovery", "store", "admin", "internal/*", "crypto/*"},
	"cmd/tornet":          {"onion/tornet"},
	"cmd/demo":            {"onion/tornet", "internal/*"},
}

// privacy lists the rules that are privacy properties: no chain of imports may lead there.
var privacy = []struct{ from, never, why string }{
	{"cmd/mailbox", "matrix bundle crypto/ratchet room replicate clientapi", "a mailbox binary cannot decode what it keeps"},
	{"clientapi", "onion mailbox replicate discovery", "a client's request cannot reach the network"},
	{"media", "onion mailbox replicate discovery", "a client's request for a file cannot reach the network"},
}

type source struct {
	dir     string
	imports []string
	file    *ast.File
	name    string
}

// sources parses every Go file that is not a test's.
func sources(t *testing.T, mode parser.Mode) (out []source) {
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || d.Name() == "build" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, mode)
		if err != nil {
			return err
		}
		s := source{dir: filepath.ToSlash(filepath.Dir(p)), file: f, name: p}
		for _, i := range f.Imports {
			v, _ := strconv.Unquote(i.Path.Value)
			s.imports = append(s.imports, v)
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func covers(pattern, pkg string) bool {
	if base, ok := strings.CutSuffix(pattern, "/*"); ok {
		return strings.HasPrefix(pkg, base+"/")
	}
	return pattern == "*" || pattern == pkg
}

func rule(pkg string) ([]string, bool) {
	if r, ok := layers[pkg]; ok {
		return r, true
	}
	for p, r := range layers {
		if covers(p, pkg) {
			return r, true
		}
	}
	return nil, false
}

func allowed(r []string, imp string) bool {
	if slices.Contains(r, "!"+imp) {
		return false
	}
	return slices.ContainsFunc(r, func(p string) bool { return covers(p, imp) })
}

func TestLayersHold(t *testing.T) {
	reach := map[string]map[string]bool{}
	for _, s := range sources(t, parser.ImportsOnly) {
		r, ok := rule(s.dir)
		if !ok {
			t.Errorf("%s: package %q has no place in the table of layers", s.name, s.dir)
			continue
		}
		for _, i := range s.imports {
			own, ok := strings.CutPrefix(i, "tarn/")
			if !ok {
				continue
			}
			if reach[s.dir] == nil {
				reach[s.dir] = map[string]bool{}
			}
			reach[s.dir][own] = true
			if !allowed(r, own) {
				t.Errorf("%s imports %s: not in its layer (DESIGN §3)", s.name, i)
			}
		}
	}
	for _, p := range privacy {
		seen := map[string]bool{}
		var visit func(string)
		visit = func(pkg string) {
			for i := range reach[pkg] {
				if !seen[i] {
					seen[i] = true
					visit(i)
				}
			}
		}
		visit(p.from)
		for _, n := range strings.Fields(p.never) {
			if seen[n] {
				t.Errorf("%s reaches %s: %s", p.from, n, p.why)
			}
		}
	}
}

// dialers may open connections: onion the network's; the others only sockets of this machine, as said beside.
var dialers = map[string]string{
	"onion":            "through tor",
	"onion/tornet":     "a private network's own processes, loopback, for tests and the demo",
	"internal/control": "a unix socket of a process of the same user",
	"cmd/demo":         "clients of the demo, loopback",
}

func TestOnlyOnionDials(t *testing.T) {
	for _, s := range sources(t, 0) {
		for _, i := range s.imports {
			if strings.HasPrefix(i, "github.com/dgraph-io/badger") && s.dir != "store" {
				t.Errorf("%s: Badger only in store", s.name)
			}
			if strings.HasPrefix(i, "github.com/libp2p/") && s.dir != "discovery" {
				t.Errorf("%s: libp2p only in discovery", s.name)
			}
		}
		if dialers[s.dir] != "" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok || x.Obj != nil {
				return true
			}
			name := path.Base(x.Name) + "." + sel.Sel.Name
			switch {
			case strings.HasPrefix(name, "net.Dial"), strings.HasPrefix(name, "net.Lookup"), name == "net.Resolver",
				name == "tls.Dial", name == "http.Client", name == "http.Transport", name == "http.Get", name == "http.Post",
				name == "http.Head", name == "http.PostForm", name == "http.DefaultClient", name == "http.DefaultTransport":
				t.Errorf("%s uses %s: only package onion dials", s.name, name)
			}
			return true
		})
	}
}
