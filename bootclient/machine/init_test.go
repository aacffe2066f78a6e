package machine

import (
	"bytes"
	"strings"
	"testing"
)

func TestAPanicBecomesAnError(t *testing.T) {
	var out bytes.Buffer
	err := recoverPanic(&out, func() error { panic("parser of X") })
	if err == nil || !strings.Contains(err.Error(), "parser of X") {
		t.Errorf("got %v", err)
	}
}
