package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

// The table of tested-hardware.md has the machines of TestMachineHardware: card, medium and screen.
func TestTheHardwareTableHasTheMachinesOfTheTest(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../internal/e2e/hardware_machine_test.go", nil, 0)
	check(t, err)
	var want []string
	ast.Inspect(file, func(n ast.Node) bool {
		row, ok := n.(*ast.CompositeLit)
		if !ok {
			return true
		}
		fields := map[string]string{}
		for _, e := range row.Elts {
			if pair, ok := e.(*ast.KeyValueExpr); ok {
				if key, ok := pair.Key.(*ast.Ident); ok {
					if text, ok := literal(pair.Value); ok {
						fields[key.Name] = text
					}
				}
			}
		}
		if fields["card"] != "" {
			want = append(want, strings.Join([]string{"`" + fields["name"] + "`", fields["card"], fields["medium"], fields["screen"]}, " | "))
		}
		return true
	})
	text, err := os.ReadFile("tested-hardware.md")
	check(t, err)
	var got []string
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(strings.Trim(line, "| \n"), " | "); strings.HasPrefix(line, "| `") && len(cells) == 6 {
			got = append(got, strings.Join(cells[:4], " | "))
		}
	}
	if len(want) < 8 || !slices.Equal(got, want) {
		t.Errorf("the page has\n%s\nthe test has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
