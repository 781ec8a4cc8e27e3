// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the sample files anew")

// comments reads the doc comment of every struct field of this package: type -> field -> text.
func comments(t *testing.T) (types map[string]string, fields map[string]map[string]string) {
	types, fields = map[string]string{}, map[string]map[string]string{}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			d, ok := n.(*ast.GenDecl)
			if !ok || d.Tok != token.TYPE {
				return true
			}
			for _, s := range d.Specs {
				ts := s.(*ast.TypeSpec)
				st, ok := ts.Type.(*ast.StructType)
				if !ok {
					continue
				}
				types[ts.Name.Name] = d.Doc.Text()
				fs := map[string]string{}
				for _, f := range st.Fields.List {
					for _, name := range f.Names {
						fs[name.Name] = f.Doc.Text()
					}
				}
				fields[ts.Name.Name] = fs
			}
			return true
		})
	}
	return types, fields
}

func hashed(text string) string {
	var sb strings.Builder
	for _, l := range strings.Split(strings.TrimSpace(text), "\n") {
		sb.WriteString(strings.TrimRight("# "+l, " ") + "\n")
	}
	return sb.String()
}

// sample renders v, a configuration struct with its defaults, as TOML with the comments of its fields.
func sample(t *testing.T, v any) string {
	types, fields := comments(t)
	var sb strings.Builder
	rv := reflect.ValueOf(v)
	sb.WriteString(hashed(types[rv.Type().Name()]))
	var table func(rv reflect.Value, path string)
	table = func(rv reflect.Value, path string) {
		rt := rv.Type()
		var later []int
		for i := range rt.NumField() {
			f := rt.Field(i)
			key := f.Tag.Get("toml")
			text := fields[rt.Name()][f.Name]
			if key == "" || text == "" {
				t.Errorf("%s.%s has no toml key or no comment", rt.Name(), f.Name)
			}
			if f.Type.Kind() == reflect.Struct {
				later = append(later, i)
				continue
			}
			fmt.Fprintf(&sb, "\n%s%s = %s\n", hashed(text), key, literal(rv.Field(i)))
		}
		for _, i := range later {
			f := rt.Field(i)
			name := f.Tag.Get("toml")
			if path != "" {
				name = path + "." + name
			}
			fmt.Fprintf(&sb, "\n%s[%s]\n", hashed(fields[rt.Name()][f.Name]), name)
			table(rv.Field(i), name)
		}
	}
	table(rv, "")
	return sb.String()
}

// compare fails if the checked-in sample is not what the struct's comments and defaults say, and if it does not load.
func compare(t *testing.T, file string, defaults any, fresh Checker) {
	t.Helper()
	want := sample(t, defaults)
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is not what the comments say: go test ./configs -update", file)
	}
	if err := decode(file, want, fresh); err != nil {
		t.Error(err)
	}
	if !reflect.DeepEqual(reflect.ValueOf(fresh).Elem().Interface(), defaults) {
		t.Errorf("%s does not give the defaults back: %+v", file, fresh)
	}
}
