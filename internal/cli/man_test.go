package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestEveryVerbHasAManPageWithItsOptions(t *testing.T) {
	do := &cobra.Command{Use: "do FILE", Short: "Does it", Long: ".first line\n\nback\\slash", Example: "  tool sub do --need x", RunE: func(*cobra.Command, []string) error { return nil }}
	do.Flags().String("need", "much", "what it `thing` needs")
	do.Flags().Bool("secret", false, "nobody sees this")
	if err := do.Flags().MarkHidden("secret"); err != nil {
		t.Fatal(err)
	}
	root, dir := &cobra.Command{Use: "tool", Short: "A tool"}, t.TempDir()
	root.AddCommand(Group(&cobra.Command{Use: "sub", Short: "Verbs"}, do))
	root.SetArgs([]string{"man", dir})
	if code := Main(root); code != ExitOK {
		t.Fatalf("exit code %d", code)
	}
	for name, want := range map[string][]string{
		"tool":        {".TH TOOL 1\n", "tool \\- A tool\n", "tool COMMAND", "tool\\-sub(1)"},
		"tool-sub":    {"tool\\-sub\\-do(1)"},
		"tool-sub-do": {"tool sub do FILE", "\\&.first line\n.PP\nback\\eslash", "\\-\\-need thing", "what it thing needs (default \"much\")", ".SH EXIT STATUS", "\\-\\-json"},
	} {
		page, err := os.ReadFile(filepath.Join(dir, name+".1"))
		if err != nil {
			t.Error(err)
		}
		for _, w := range want {
			if !strings.Contains(string(page), w) {
				t.Errorf("%s: no %q in\n%s", name, w, page)
			}
		}
		if strings.Contains(string(page), "secret") {
			t.Errorf("%s shows a hidden flag", name)
		}
	}
}
