package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// matrixRows returns the fields of the rows in the code, which are literals: name, situation, ends, and
// what the screen says.
func matrixRows(t *testing.T) (rows []map[string][]string) {
	t.Helper()
	files, err := filepath.Glob("../internal/e2e/matrix*_test.go")
	check(t, err)
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		check(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			row, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			fields := map[string][]string{}
			for _, e := range row.Elts {
				pair, ok := e.(*ast.KeyValueExpr)
				if !ok {
					continue
				}
				key, ok := pair.Key.(*ast.Ident)
				if !ok {
					continue
				}
				values := []ast.Expr{pair.Value}
				if list, ok := pair.Value.(*ast.CompositeLit); ok {
					values = list.Elts
				}
				for _, v := range values {
					if text, ok := literal(v); ok {
						fields[key.Name] = append(fields[key.Name], text)
					}
				}
			}
			if len(fields["situation"]) == 1 {
				rows = append(rows, fields)
			}
			return true
		})
	}
	return rows
}

func TestTheMatrixHasTheRowsOfTheTests(t *testing.T) {
	text, err := os.ReadFile("MATRIX.md")
	check(t, err)
	onPage := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(strings.TrimSpace(line), " | "); strings.HasPrefix(line, "| `") {
			onPage[strings.Trim(cells[0], "| `")] = cells
		}
	}
	rows := matrixRows(t)
	if len(rows) < 30 {
		t.Fatalf("found only %d rows in the code", len(rows))
	}
	for _, r := range rows {
		name := r["name"][0]
		var said []string
		for _, words := range r["says"] {
			if words = "`" + strings.Trim(words, "] ") + "`"; !slices.Contains(said, words) {
				said = append(said, words)
			}
		}
		want := []string{"| `" + name + "`", r["situation"][0], strings.Join(said, " … "), r["ends"][0]}
		if cells := onPage[name]; len(cells) != 5 || !slices.Equal(cells[:4], want) {
			t.Errorf("no row\n%s | … |", strings.Join(want, " | "))
		}
		delete(onPage, name)
	}
	for name := range onPage {
		t.Errorf("`%s` is not a row of the tests", name)
	}
}
