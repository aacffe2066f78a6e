package machine

import (
	"bytes"
	"testing"
)

func TestAShortFetchReportsNoProgress(t *testing.T) {
	var out bytes.Buffer
	b := &boot{report: newReport(&out)}
	progress := b.progress()
	for i := range int64(1000) {
		progress(i, 1000)
	}
	if out.Len() != 0 {
		t.Errorf("printed %q", out.String())
	}
}
