package docs

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// screenPackages are the folders whose messages the screen of a machine can show.
var screenPackages = []string{"../bootclient", "../manifest", "../cas", "../internal/bootfile", "../internal/gateway", "../internal/p2p"}

// notOnScreen are folders below these whose messages only a publisher or a host shows.
var notOnScreen = []string{"../cas/pack", "../internal/p2p/nat", "../internal/p2p/peertls", "../bootclient/seed"}

// screenFiles parses the files of the folders, without tests.
func screenFiles(t *testing.T) (list []*ast.File) {
	t.Helper()
	for _, root := range screenPackages {
		check(t, filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case d.IsDir() && (d.Name() == "testdata" || slices.Contains(notOnScreen, path)):
				return filepath.SkipDir
			case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
				return nil
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			list = append(list, file)
			return err
		}))
	}
	return list
}

// literal returns the value of a string literal, or of the first literal of a sum.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		return literal(e.X)
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil && e.Kind == token.STRING
	}
	return "", false
}

// called returns the function's name and the first argument of a call, if that is a string.
func called(n ast.Node) (name, text string, ok bool) {
	call, isCall := n.(*ast.CallExpr)
	if !isCall || len(call.Args) == 0 {
		return "", "", false
	}
	switch f := call.Fun.(type) {
	case *ast.SelectorExpr:
		name = f.Sel.Name
	case *ast.Ident:
		name = f.Name
	}
	text, ok = literal(call.Args[0])
	return name, text, ok
}

// sentinels returns the texts of the errors that are package variables.
func sentinels(files []*ast.File) (list []string) {
	for _, file := range files {
		for _, decl := range file.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.VAR {
				continue
			}
			ast.Inspect(gen, func(n ast.Node) bool {
				if name, text, ok := called(n); ok && (name == "New" || name == "Errorf") {
					list = append(list, text)
				}
				return true
			})
		}
	}
	return list
}

// stepNames returns the names of the steps in the tables of bootclient/machine and of the steps that
// reports begin.
func stepNames(files []*ast.File) (list []string) {
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			if name, text, ok := called(n); ok && name == "Begin" {
				list = append(list, text)
			}
			table, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			array, ok := table.Type.(*ast.ArrayType)
			if !ok || fmt.Sprint(array.Elt) != "step" {
				return true
			}
			for _, e := range table.Elts {
				if row, ok := e.(*ast.CompositeLit); ok && len(row.Elts) > 0 {
					if text, ok := literal(row.Elts[0]); ok {
						list = append(list, text)
					}
				}
			}
			return true
		})
	}
	return list
}

// entryTexts returns the texts of the entries of the menu.
func entryTexts(files []*ast.File) (list []string) {
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			pair, ok := n.(*ast.KeyValueExpr)
			if ok && fmt.Sprint(pair.Key) == "Text" {
				if text, ok := literal(pair.Value); ok {
					list = append(list, text)
				}
			}
			return true
		})
	}
	return list
}

// firstColumns returns the text in the first column of each row of a section's table.
func firstColumns(t *testing.T, page, section string) (list []string) {
	t.Helper()
	_, text, found := strings.Cut(page, "\n## "+section+"\n")
	if !found {
		t.Fatalf("TROUBLESHOOTING.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(text, -1) {
		list = append(list, row[1])
	}
	return list
}

// fixed returns the fixed parts of a format, without what follows %w.
var verb = regexp.MustCompile(`%[-+#0-9.]*[a-z]|…`)

func fixed(format string) (parts []string) {
	for _, p := range verb.Split(format, -1) {
		if p = strings.Trim(p, " :;,()"); p != "" {
			parts = append(parts, p)
		}
	}
	return parts
}

func TestTroubleshootingExplainsWhatTheScreenShows(t *testing.T) {
	data, err := os.ReadFile("TROUBLESHOOTING.md")
	check(t, err)
	page, files := string(data), screenFiles(t)

	for section, names := range map[string][]string{"Steps": stepNames(files), "The menu": entryTexts(files)} {
		rows := firstColumns(t, page, section)
		if len(names) < 8 {
			t.Errorf("%s: found only %q in the code", section, names)
		}
		for _, name := range names {
			if !slices.Contains(rows, name) {
				t.Errorf("%s: no row for `%s`", section, name)
			}
		}
		for _, row := range rows {
			if !slices.Contains(names, row) {
				t.Errorf("%s: `%s` is not in the code", section, row)
			}
		}
	}

	causes := firstColumns(t, page, "Causes")
	list := sentinels(files)
	if len(list) < 30 {
		t.Errorf("found only %d errors in the code", len(list))
	}
	for _, text := range list {
		for _, part := range fixed(text) {
			if !slices.ContainsFunc(causes, func(row string) bool { return strings.Contains(row, part) }) {
				t.Errorf("Causes: no row for `%s`", text)
			}
		}
	}
	var all strings.Builder
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			if e, ok := n.(ast.Expr); ok {
				if text, ok := literal(e); ok {
					all.WriteString(text + "\n")
				}
			}
			return true
		})
	}
	for _, row := range causes {
		for _, part := range fixed(row) {
			if !strings.Contains(all.String(), part) {
				t.Errorf("Causes: `%s` is not in the code", row)
			}
		}
	}
}
