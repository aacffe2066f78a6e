package limit

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestFaultsLimitTheClientThatMakesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := NewFaults(2, 5)
		looked := 0
		for range 100 {
			if f.Allow("a") {
				looked++
				f.Add("a")
			}
		}
		if looked != 5 || !f.Allow("b") {
			t.Errorf("%d of 100 wrong requests were looked at", looked)
		}
		time.Sleep(time.Second)
		for range 100 {
			if f.Allow("a") {
				looked++
				f.Add("a")
			}
		}
		if looked != 7 {
			t.Errorf("%d were looked at after a second", looked)
		}
	})
}

func TestFaultsRememberFewClients(t *testing.T) {
	f := NewFaults(1, 1)
	for i := range 3 * maxIdle {
		f.Add(fmt.Sprint(i))
	}
	if n := f.clients.Len(); n > maxIdle {
		t.Errorf("%d are remembered", n)
	}
}
