package scripttest

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

func TestMain(m *testing.M) {
	Main(m, map[string]func() int{"leave": func() int {
		code, err := strconv.Atoi(os.Args[1])
		if err != nil {
			return 99
		}
		fmt.Println("leaving with", code)
		return code
	}})
}

func TestScripts(t *testing.T) { Run(t, "testdata") }
