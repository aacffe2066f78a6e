package machine

import (
	"fmt"
	"os"
	"testing"
)

func TestEndedChildrenAreReapedOnce(t *testing.T) {
	kids, s := kidsOf(t), newScreen(t)
	s.read()
	tty, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	var list []*process
	for i := range 20 {
		p, err := kids.start(func() (int, error) {
			return spawnQuiet("/bin/sh", []string{"sh", "-c", fmt.Sprintf("exit %d", i)}, tty)
		})
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	for i, p := range list {
		<-p.ended
		if p.status.ExitStatus() != i {
			t.Errorf("process %d: status %d", i, p.status.ExitStatus())
		}
		p.kill() // its number may belong to another process now
	}
}
