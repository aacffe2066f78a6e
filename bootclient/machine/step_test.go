package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestStepsRunInOrderUntilARequiredOneFails(t *testing.T) {
	var out bytes.Buffer
	var ran []string
	do := func(name string, onFailure failurePolicy, err error) step {
		return step{name, onFailure, func(context.Context) (string, error) {
			ran = append(ran, name)
			return "did " + name, err
		}}
	}
	gone := errors.New("gone")
	err := runSteps(t.Context(), newReport(&out), []step{
		do("one", required, nil), do("two", optional, gone), do("self", selfReporting, nil), do("three", required, gone), do("four", required, nil),
	})
	if !errors.Is(err, gone) || err.Error() != "three: gone" {
		t.Errorf("error %v", err)
	}
	if got := strings.Join(ran, " "); got != "one two self three" {
		t.Errorf("ran %s", got)
	}
	for _, want := range []string{"s] one: did one\n", "s] self: did self\n", "two: failed: gone (the boot continues without it)", "three: failed: gone"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

func TestStepTimesCountFromTheStartOfTheKernel(t *testing.T) {
	var out bytes.Buffer
	newReport(&out).Say("now")
	var at float64
	if _, err := fmt.Sscanf(out.String(), "[%fs]", &at); err != nil {
		t.Fatal(err)
	}
	if up := uptime().Seconds(); at < up-5 || at > up+5 {
		t.Errorf("reported %v, uptime %v", at, up)
	}
}
