package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// reference matches a package (`cas/pack/`, `internal/arch`), a file (`cas/read.go`) and a
// declaration (`cas/read.go:Get`, `publisher/serve.go:server.problems`).
var reference = regexp.MustCompile("`([a-z0-9_]+(?:/[a-zA-Z0-9_.-]*)+)(?::([A-Za-z0-9_.]+))?`")

func TestArchitectureNamesPackagesFilesAndFunctionsThatExist(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	check(t, err)
	references := reference.FindAllStringSubmatch(string(text), -1)
	if len(references) < 60 {
		t.Fatalf("ARCHITECTURE.md has only %d references", len(references))
	}
	for _, r := range references {
		path := filepath.Join("..", r[1])
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		} else if r[2] != "" && !declares(t, path, r[2]) {
			t.Errorf("%s has no declaration of %s", r[1], r[2])
		}
	}
}

// declares reports whether a Go file declares a function, a type or a constant NAME, or a
// method TYPE.NAME.
func declares(t *testing.T, path, name string) bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	check(t, err)
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if functionName(d) == name {
				return true
			}
		case *ast.GenDecl:
			if slices.ContainsFunc(d.Specs, func(spec ast.Spec) bool { return specNames(spec, name) }) {
				return true
			}
		}
	}
	return false
}

func specNames(spec ast.Spec, name string) bool {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		return spec.Name.Name == name
	case *ast.ValueSpec:
		return slices.ContainsFunc(spec.Names, func(id *ast.Ident) bool { return id.Name == name })
	}
	return false
}

// functionName returns FUNCTION, or TYPE.METHOD.
func functionName(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	receiver := f.Recv.List[0].Type
	if p, ok := receiver.(*ast.StarExpr); ok {
		receiver = p.X
	}
	if g, ok := receiver.(*ast.IndexExpr); ok {
		receiver = g.X
	}
	if id, ok := receiver.(*ast.Ident); ok {
		return id.Name + "." + f.Name.Name
	}
	return ""
}
