// SPDX-License-Identifier: Apache-2.0

package tarn

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// TestEveryExportedNameIsDocumented also wants a doc comment on each package and the licence line on each file.
func TestEveryExportedNameIsDocumented(t *testing.T) {
	packages := map[string]bool{}
	for _, s := range sources(t, parser.ParseComments) {
		packages[s.dir] = packages[s.dir] || s.file.Doc != nil
		if b, err := os.ReadFile(s.name); err != nil || !strings.HasPrefix(string(b), "// SPDX-License-Identifier: Apache-2.0\n") {
			t.Errorf("%s: the first line is not the licence's", s.name)
		}
		for _, d := range s.file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) && d.Doc == nil && !plumbing(d.Name.Name) {
					t.Errorf("%s: func %s has no comment", s.name, d.Name.Name)
				}
			case *ast.GenDecl:
				undocumented(d, func(name string) { t.Errorf("%s: %s has no comment", s.name, name) })
			}
		}
	}
	for p, ok := range packages {
		if !ok {
			t.Errorf("package %s has no comment", p)
		}
	}
}

// plumbing are methods whose meaning the interface that asks for them gives.
func plumbing(name string) bool {
	switch name {
	case "Error", "String", "Unwrap", "Is", "LogValue", "MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText",
		"Len", "Less", "Swap", "Push", "Pop", "Read", "Write", "Close", "Addr", "Accept", "LocalAddr", "RemoteAddr",
		"SetDeadline", "SetReadDeadline", "SetWriteDeadline", "Network", "ServeHTTP":
		return true
	}
	return false
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	t := d.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

// undocumented reports exported names with no comment of their own, none beside them, and none above their group.
func undocumented(d *ast.GenDecl, report func(string)) {
	if d.Tok == token.IMPORT {
		return
	}
	for _, s := range d.Specs {
		switch s := s.(type) {
		case *ast.TypeSpec:
			if s.Name.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
				report(s.Name.Name)
			}
		case *ast.ValueSpec:
			for _, n := range s.Names {
				if n.IsExported() && s.Doc == nil && s.Comment == nil && d.Doc == nil {
					report(n.Name)
				}
			}
		}
	}
}
