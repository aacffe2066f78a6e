package signer

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/phaseboot/phaseboot/manifest"
)

// submitterWords describes a submitter for an operator.
func submitterWords(b *strings.Builder, s manifest.Submitter) {
	line(b, "submitter", "%s, key ID %s", s.Name, manifest.KeyID(s.Key))
	line(b, "", "jobs at a time: %d; each at most: memory %s, time %s, CPU time %s, output %s", s.Jobs,
		size(s.Limits.Memory), milliseconds(s.Limits.Timeout), milliseconds(s.Limits.CPU), size(s.Limits.Output))
	line(b, "", "may use: %s", grants(s.Grants))
}

// grants lists the capabilities that jobs of a submitter may have.
func grants(g manifest.SubmitterGrants) string {
	var list []string
	add := func(granted bool, what string) {
		if granted {
			list = append(list, what)
		}
	}
	add(g.Stdin, "stdin")
	add(g.Scratch > 0, "scratch folder of "+size(g.Scratch))
	add(g.Clock, "clock")
	add(g.Random, "random numbers")
	for _, role := range g.Artifacts {
		add(true, "artifact "+role)
	}
	if len(list) == 0 {
		return "arguments and environment only"
	}
	return strings.Join(list, ", ")
}

func size(n int64) string { return humanize.IBytes(uint64(n)) }

// milliseconds is a number of milliseconds for an operator. Numbers that a time.Duration cannot have are
// printed as they are.
func milliseconds(n int64) string {
	if d := time.Duration(n) * time.Millisecond; d/time.Millisecond == time.Duration(n) {
		return d.String()
	}
	return fmt.Sprintf("%d ms", n)
}

// samePolicy reports whether two submitters are the same and may do the same.
func samePolicy(a, b manifest.Submitter) bool { return reflect.DeepEqual(a, b) }

// hasSubmitter reports whether a list has the key of a submitter.
func hasSubmitter(list []manifest.Submitter, s manifest.Submitter) bool {
	return slices.ContainsFunc(list, func(o manifest.Submitter) bool { return o.Key.Equal(s.Key) })
}

// remainingSubmitters lists the submitters that the newest release of a manifest does not name, and an earlier one does.
func remainingSubmitters(r manifest.Release) (list []string) {
	for _, e := range r.Earlier {
		for _, s := range e.Submitters {
			if !hasSubmitter(r.Submitters, s) {
				list = append(list, fmt.Sprintf("submitter %s (%.8s…): may still submit on earlier release %s; --submitter ends that", s.Name, manifest.KeyID(s.Key), e.Version))
			}
		}
	}
	return list
}

// submitterChanges lists the differences between the submitters of two releases. A name with another key
// is another submitter.
func submitterChanges(from, to []manifest.Submitter) []string {
	var list []string
	for _, s := range to {
		i := slices.IndexFunc(from, func(o manifest.Submitter) bool { return o.Name == s.Name && o.Key.Equal(s.Key) })
		switch {
		case i < 0:
			list = append(list, fmt.Sprintf("submitter %s (%.8s…): added", s.Name, manifest.KeyID(s.Key)))
		case !samePolicy(from[i], s):
			list = append(list, fmt.Sprintf("submitter %s (%.8s…): may do something else than before", s.Name, manifest.KeyID(s.Key)))
		}
	}
	for _, s := range from {
		if !slices.ContainsFunc(to, func(o manifest.Submitter) bool { return o.Name == s.Name && o.Key.Equal(s.Key) }) {
			list = append(list, fmt.Sprintf("submitter %s (%.8s…): removed", s.Name, manifest.KeyID(s.Key)))
		}
	}
	return list
}
