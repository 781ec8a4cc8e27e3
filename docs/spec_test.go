// SPDX-License-Identifier: Apache-2.0

// Package docs_test holds the documents against the code: what they name must exist, and the wire specification must
// suffice to write another node.
package docs_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// spec is the headings of SPEC.md.
type spec struct {
	sections map[string]bool   // "4", "4.2"
	chapters map[string]string // "mailbox" -> "4"
}

var heading = regexp.MustCompile(`(?m)^(?:## (\d+)\. ([a-z]+)|### (\d+)(\.\d+) .+)$`)

func readSpec(t *testing.T) (spec, string) {
	t.Helper()
	text, err := os.ReadFile("SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	s := spec{map[string]bool{}, map[string]string{}}
	for _, m := range heading.FindAllStringSubmatch(string(text), -1) {
		if m[1] != "" {
			s.sections[m[1]], s.chapters[m[2]] = true, m[1]
			continue
		}
		if !s.sections[m[3]] {
			t.Errorf("section %s%s stands outside its chapter", m[3], m[4])
		}
		s.sections[m[3]+m[4]] = true
	}
	return s, string(text)
}

// reference is "SPEC §4.2", "SPEC mailbox §2", and what follows: "…, §3", "… to §5".
var (
	reference = regexp.MustCompile(`SPEC ([a-z]+ )?§[\d.]*\d(?:(?:,| and| or| to) §[\d.]*\d)*`)
	number    = regexp.MustCompile(`§([\d.]*\d)`)
)

// unresolved lists the references in a text that name no section, and how many there are in all.
func (s spec) unresolved(text string) (bad []string, all int) {
	for _, m := range reference.FindAllStringSubmatch(text, -1) {
		for _, n := range number.FindAllStringSubmatch(m[0], -1) {
			all++
			section := n[1]
			if chapter := strings.TrimSpace(m[1]); chapter != "" {
				if s.chapters[chapter] == "" {
					bad = append(bad, m[0])
					continue
				}
				section = s.chapters[chapter] + "." + section
			}
			if !s.sections[section] {
				bad = append(bad, m[0])
			}
		}
	}
	return bad, all
}

// files calls fn for every file of the tree with that ending.
func files(t *testing.T, ext string, fn func(name string)) {
	t.Helper()
	err := filepath.WalkDir("..", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != ".." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "build" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(p, ext) {
			fn(p)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEveryReferenceToTheSpecHasItsSection(t *testing.T) {
	s, text := readSpec(t)
	all := 0
	for _, ext := range []string{".go", ".md", ".py"} {
		files(t, ext, func(name string) {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			bad, n := s.unresolved(string(b))
			all += n
			for _, r := range bad {
				t.Errorf("%s: %q is no section of SPEC.md", name, r)
			}
		})
	}
	if all < 20 {
		t.Errorf("only %d references found: the test looks in the wrong place", all)
	}
	// Within SPEC.md a section is named without the word; other documents' sections stand behind their names.
	foreign := regexp.MustCompile(`(RFC \d+|rend-spec-v3) §[\d.]*\d`)
	for _, n := range number.FindAllStringSubmatch(foreign.ReplaceAllString(text, ""), -1) {
		if !s.sections[n[1]] && s.chapters["mailbox"] != "" && n[0] != "§3" { // "SPEC mailbox §3" is the example on top
			t.Errorf("SPEC.md: %q is no section of it", n[0])
		}
	}
	// The test itself must be able to fail.
	for _, r := range []string{"SPEC " + "§99.9", "SPEC mailbox " + "§77", "SPEC nowhere " + "§1", "SPEC mailbox " + "§2, §77"} {
		if bad, _ := s.unresolved("// " + r + "."); len(bad) != 1 {
			t.Errorf("%q was not found to be wrong: %q", r, bad)
		}
	}
	for _, r := range []string{"SPEC " + "§4.2", "SPEC mailbox " + "§2", "SPEC replicate " + "§1 to §3"} {
		if bad, n := s.unresolved("// " + r + "."); len(bad) != 0 || n == 0 {
			t.Errorf("%q was found to be wrong", r)
		}
	}
}

// names are what a package declares: "Func", "Type", "Type.Method", "Type.Field".
type names map[string]bool

// declared parses all packages of the tree, tests included; the key is the folder.
func declared(t *testing.T) map[string]names {
	t.Helper()
	out := map[string]names{}
	set := token.NewFileSet()
	files(t, ".go", func(name string) {
		f, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.ToSlash(strings.TrimPrefix(filepath.Dir(name), "../"))
		if out[dir] == nil {
			out[dir] = names{}
		}
		for _, d := range f.Decls {
			out[dir].add(d)
		}
	})
	return out
}

func (n names) add(d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			n[d.Name.Name] = true
			return
		}
		x := d.Recv.List[0].Type
		if p, ok := x.(*ast.StarExpr); ok {
			x = p.X
		}
		if p, ok := x.(*ast.IndexExpr); ok {
			x = p.X
		}
		if id, ok := x.(*ast.Ident); ok {
			n[id.Name+"."+d.Name.Name] = true
		}
	case *ast.GenDecl:
		for _, s := range d.Specs {
			switch s := s.(type) {
			case *ast.ValueSpec:
				for _, id := range s.Names {
					n[id.Name] = true
				}
			case *ast.TypeSpec:
				n[s.Name.Name] = true
				var members *ast.FieldList
				switch x := s.Type.(type) {
				case *ast.StructType:
					members = x.Fields
				case *ast.InterfaceType:
					members = x.Methods
				}
				if members == nil {
					continue
				}
				for _, f := range members.List {
					for _, id := range f.Names {
						n[s.Name.Name+"."+id.Name] = true
					}
				}
			}
		}
	}
}

var (
	span      = regexp.MustCompile("`([^`\n]+)`")
	qualified = regexp.MustCompile(`^([a-z][a-z0-9/]*)\.([A-Za-z]\w*(?:\.[A-Za-z]\w*)?)$`)
	folder    = regexp.MustCompile(`^[a-z0-9]+(?:/[a-z0-9]+)+$`)
	goFile    = regexp.MustCompile(`^(?:[a-z0-9]+/)*\w+\.go$`)
	plainFile = regexp.MustCompile(`\.(?:toml|seed|sock|json|md|py|service)$`)
	link      = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
)

// wrong says why what stands in a code span does not exist; "" if it does, or is no name of ours. sure: it is one.
func wrong(span string, packages map[string]names) (why string, sure bool) {
	if goFile.MatchString(span) {
		if strings.Contains(span, "/") {
			_, err := os.Stat(filepath.Join("..", span))
			return missing(err), true
		}
		found, _ := filepath.Glob("../*/" + span)
		root, _ := filepath.Glob("../" + span)
		if len(found)+len(root) == 0 {
			return "no such file", true
		}
		return "", true
	}
	if strings.HasPrefix(span, "build/") { // what make makes
		return "", false
	}
	if folder.MatchString(span) {
		_, err := os.Stat(filepath.Join("..", span))
		return missing(err), true
	}
	m := qualified.FindStringSubmatch(span)
	if m == nil || plainFile.MatchString(span) {
		return "", false
	}
	known := false
	for dir, n := range packages {
		if dir != m[1] && path.Base(dir) != m[1] {
			continue
		}
		known = true
		if n[m[2]] {
			return "", true
		}
	}
	if !known {
		return "", false
	}
	return "package " + m[1] + " has no " + m[2], true
}

func missing(err error) string {
	if err != nil {
		return "no such file or folder"
	}
	return ""
}

func TestWhatTheDocumentsNameExists(t *testing.T) {
	packages := declared(t)
	for doc, least := range map[string]int{"../README.md": 5, "one-message.md": 30, "SPEC.md": 0, "THREATS.md": 0, "operating.md": 0} {
		b, err := os.ReadFile(doc)
		if err != nil {
			t.Fatal(err)
		}
		text, names := string(b), 0
		for _, m := range span.FindAllStringSubmatch(text, -1) {
			why, sure := wrong(m[1], packages)
			if sure {
				names++
			}
			if why != "" {
				t.Errorf("%s: `%s`: %s", doc, m[1], why)
			}
		}
		if names < least {
			t.Errorf("%s: only %d names found", doc, names)
		}
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(doc), m[1])); err != nil {
				t.Errorf("%s: the link to %s leads nowhere", doc, m[1])
			}
		}
	}
	// README's table of folders: the first column.
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for _, line := range strings.Split(string(readme), "\n") {
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		rows++
		for _, m := range span.FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
			if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
				t.Errorf("README.md: there is no folder %s", m[1])
			}
		}
	}
	if rows < 10 {
		t.Errorf("README.md: a table of %d folders", rows)
	}
	// The test itself must be able to fail.
	for _, s := range []string{"room.Rooms.Sned", "room.Nothing", "crypto/nothing", "nothing.go", "room/nothing.go", "mailbox/store.Nothing"} {
		if why, _ := wrong(s, packages); why == "" {
			t.Errorf("%q was not found to be wrong", s)
		}
	}
	for _, s := range []string{"room.Rooms.Send", "clientapi.API.send", "crypto/ratchet", "routes.go", "node.toml", "replicate.Mailbox.Put"} {
		if why, _ := wrong(s, packages); why != "" {
			t.Errorf("%q was found to be wrong: %s", s, why)
		}
	}
}
