package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func percent(n int) *int { return &n }

// rolled is a release with two earlier ones: a few machines take it, and the group lab stays on the oldest.
func rolled() Release {
	r := valid()
	r.First, r.FallbackFloor = 6, 3
	r.Rollout = &Rollout{Percent: percent(5), Groups: []string{"canary"}, NotBefore: today, Hold: []string{"lab"}}
	r.Earlier = []Release{older(r, "2026.09", 4), older(r, "2026.08+a", 3)}
	r.Earlier[0].Rollout = &Rollout{Hold: []string{"lab"}}
	r.Earlier[0].Submitters = []Submitter{modest("ci")}
	return r
}

// older is an earlier release beside r.
func older(r Release, version string, number int64) Release {
	e := sample(r.Channel, r.Arch, version, r.Number, r.SignedAt, r.Expires)
	e.First, e.Repository, e.Cmdline = number, r.Repository, "quiet"
	return e
}

func TestReleaseWithEarlierOnesIsEncodedAndDecoded(t *testing.T) {
	for name, change := range map[string]func(*Release){
		"all fields":        func(*Release) {},
		"nobody":            func(r *Release) { r.Rollout = &Rollout{Percent: percent(0)} },
		"all of them":       func(r *Release) { r.Rollout = &Rollout{Percent: percent(100)} },
		"a number alone":    func(r *Release) { r.Rollout, r.Earlier = nil, nil },
		"for fallback only": func(r *Release) { r.Rollout = nil },
		"as many as are allowed": func(r *Release) {
			r.First, r.Earlier = 0, nil
			for n := int64(6); n > 2; n-- {
				r.Earlier = append(r.Earlier, older(*r, fmt.Sprint("2026.0", n), n))
			}
		},
		"the last one holds a group": func(r *Release) { r.Earlier[1].Rollout = &Rollout{Hold: []string{"lab"}} },
	} {
		t.Run(name, func(t *testing.T) {
			want := rolled()
			change(&want)
			role, err := Encode(want)
			if err != nil {
				t.Fatal(err)
			}
			d := mustOpen(t, sign(t, KindRole, role, "release-a"))
			if diff := cmp.Diff(want, *d.Release(), compareCIDs); diff != "" {
				t.Error(diff)
			}
			if len(d.Unknown()) > 0 {
				t.Errorf("unknown fields: %q", d.Unknown())
			}
			data, err := json.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			var got Release
			if err := json.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, compareCIDs); diff != "" {
				t.Errorf("from JSON: %s", diff)
			}
		})
	}
}

func TestEncodeRefusesRollouts(t *testing.T) {
	of := func(o Rollout) func(*Release) { return func(r *Release) { r.Rollout = &o } }
	groups := func(n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprint("g", i))
		}
		return list
	}
	for _, row := range []struct {
		name   string
		change func(*Release)
		says   string
	}{
		{"101 percent", of(Rollout{Percent: percent(101)}), "rollout.percent: 101 is not within 0 and 100"},
		{"a negative percentage", of(Rollout{Percent: percent(-1)}), "rollout.percent: -1 is not within"},
		{"no field", of(Rollout{}), "rollout: has no field"},
		{"a group in upper case", of(Rollout{Groups: []string{"Lab"}}), `groups[0]: "Lab" is not a group`},
		{"a group with a comma", of(Rollout{Hold: []string{"a,b"}}), `hold[0]: "a,b" is not a group`},
		{"a group of 33 bytes", of(Rollout{Groups: groups(1), Hold: []string{strings.Repeat("a", 33)}}), "is not a group"},
		{"a group twice", of(Rollout{Groups: []string{"a", "a"}}), `groups[1]: "a" is named twice`},
		{"too many groups", of(Rollout{Groups: groups(maxGroups + 1)}), "65 groups; there must be 1 to 64"},
		{"five earlier releases", func(r *Release) {
			r.Number, r.First, r.Earlier = 9, 0, nil
			for n := int64(8); n > 3; n-- {
				r.Earlier = append(r.Earlier, older(*r, "1", n))
			}
		}, "earlier: 5 releases; there must be 1 to 4"},
		{"an earlier release with a higher number than the one before it", func(r *Release) { r.Earlier[1].First = 5 }, "earlier[1].number: 5 is not below 4"},
		{"an earlier release with the same number", func(r *Release) { r.Earlier[1].First = 4 }, "named twice"},
		{"an earlier release with the own number", func(r *Release) { r.Earlier[0].First = 6 }, "earlier[0].number: 6 is not below 6"},
		{"an earlier release with a number above the own", func(r *Release) { r.Earlier[0].First = 8 }, "earlier[0].number: 8 is not below 6"},
		{"an earlier release without a number", func(r *Release) { r.Earlier[0].First = 0 }, "earlier[0].number: 0 is not within"},
		{"a number above the role's version", func(r *Release) { r.First = 8 }, "number: 8 is not within 1 and 7"},
		{"a floor above the own number", func(r *Release) { r.FallbackFloor = 7 }, "fallback_floor: 7 is not within 1 and 6"},
		{"conditions, and nothing else", func(r *Release) { r.Earlier = nil }, "and not for every machine; carry an earlier release"},
		{"conditions of the last one", func(r *Release) { r.Earlier[1].Rollout = &Rollout{Percent: percent(99)} }, `release "2026.08+a": the last one of the manifest`},
		{"an earlier release without a kernel", func(r *Release) { r.Earlier[1].Artifacts = r.Earlier[1].Artifacts[:3] }, `release "2026.08+a": no kernel`},
		{"a boot set of an earlier release", func(r *Release) {
			for _, role := range []string{RoleBootKernel, RoleBootInitramfs} {
				a := r.Earlier[0].Artifacts[0]
				a.Role = role
				r.Earlier[0].Artifacts = append(r.Earlier[0].Artifacts, a)
			}
		}, "is not written as that of an earlier release"},
		{"too many artifacts of one release", func(r *Release) {
			for i := range maxArtifacts {
				a := r.Artifacts[0]
				a.Role = fmt.Sprintf("dtb/%d.dtb", i)
				r.Artifacts = append(r.Artifacts, a)
			}
		}, "261 artifacts; at most 256 are read"},
		{"a grant of an artifact of another release", func(r *Release) {
			r.Artifacts = append(r.Artifacts, Artifact{Role: "job/b.wasm", Length: 1, SHA256: r.Artifacts[0].SHA256, CID: r.Artifacts[0].CID, Chunker: "size-1"})
			s := submitter("zoe")
			s.Grants.Artifacts = []string{"job/b.wasm"}
			r.Earlier[0].Submitters = []Submitter{s}
		}, `may read "job/b.wasm"`},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := rolled()
			row.change(&r)
			_, err := Encode(r)
			refused(t, err, ErrMalformed, row.says)
		})
	}
}

// A manifest that Encode never writes: a path of an earlier release has one form, and its number is in the list.
func TestOpenRefusesPathsOfEarlierReleases(t *testing.T) {
	for _, row := range []struct{ name, old, new, says string }{
		{"a number that is not in the list", "earlier-3-kernel", "earlier-2-kernel", "is of release number 2, which the field earlier does not name"},
		{"a number with a zero before it", "earlier-3-kernel", "earlier-03-kernel", `artifact "earlier-03-kernel": its role is given as "kernel"`},
		{"a folder", "earlier-3-kernel", "earlier-3/kernel", "its role is given as"},
		{"a job with a second dash", "earlier-3-job-hello.wasm", "earlier-3-job--hello.wasm", "its role is given as"},
		{"a folder below a job", "earlier-3-job-hello.wasm", "earlier-3-job-a/hello.wasm", "is not written as that of an earlier release"},
		{"another role than the path's", "earlier-3-rootfs", "earlier-3-rootfs2", "its role is given as"},
		{"the newest one's in the list", `"number": 3,`, `"number": 2,`, "is of release number 3"},
	} {
		t.Run(row.name, func(t *testing.T) {
			data := string(read(t, "rollout", kinds[KindRole]))
			if strings.Count(data, row.old) != 1 {
				t.Fatalf("%q is there %d times", row.old, strings.Count(data, row.old))
			}
			_, err := Open([]byte(strings.Replace(data, row.old, row.new, 1)))
			refused(t, err, ErrMalformed, row.says)
		})
	}
}

// machines are the IDs of simulated machines.
func machines(n int) (ids []string) {
	for i := range n {
		sum := sha256.Sum256(fmt.Append(nil, "machine ", i))
		ids = append(ids, fmt.Sprintf("%x", sum))
	}
	return ids
}

func TestLargerPercentagesIncludeTheSmallerOnes(t *testing.T) {
	r := valid()
	last := map[string]bool{}
	for _, n := range []int{0, 1, 5, 50, 99, 100} {
		r.Rollout = &Rollout{Percent: percent(n)}
		now := map[string]bool{}
		for _, id := range machines(1000) {
			if r.Includes(Machine{ID: id}, today) {
				now[id] = true
			} else if last[id] {
				t.Errorf("%d %%: machine %.8s is outside again", n, id)
			}
		}
		if got := len(now); got < 10*n-50 || got > 10*n+50 || n == 0 && got > 0 || n == 100 && got < 1000 {
			t.Errorf("%d %%: %d of 1000 machines", n, got)
		}
		last = now
	}
	r.Rollout = &Rollout{Percent: percent(5)}
	before := slices.DeleteFunc(machines(1000), func(id string) bool { return !r.Includes(Machine{ID: id}, today) })
	r.Version = "2026.11"
	again := slices.DeleteFunc(slices.Clone(before), func(id string) bool { return !r.Includes(Machine{ID: id}, today) })
	if len(again) > len(before)/2 {
		t.Errorf("%d of the first %d machines are the first of the next release too", len(again), len(before))
	}
}

func TestWhoTakesARelease(t *testing.T) {
	r := rolled()
	in := machines(1000)
	in = slices.DeleteFunc(in, func(id string) bool { return r.percentile(id) >= 5 })
	for _, row := range []struct {
		name string
		m    Machine
		now  time.Time
		want string
	}{
		{"one of the few", Machine{ID: in[0]}, today, "2026.10"},
		{"one of the few, a second too early", Machine{ID: in[0]}, today.Add(-time.Second), "2026.09"},
		{"one of the few, in a group without a rule", Machine{ID: in[0], Groups: []string{"other"}}, today, "2026.10"},
		{"one of the few, in a held group", Machine{ID: in[0], Groups: []string{"other", "lab"}}, today, "2026.08+a"},
		{"one that is outside", Machine{ID: "0"}, today, "2026.09"},
		{"one that is outside, in the group of the release", Machine{ID: "0", Groups: []string{"canary"}}, today, "2026.10"},
		{"one in both groups", Machine{ID: "0", Groups: []string{"canary", "lab"}}, today, "2026.08+a"},
		{"one without an ID", Machine{}, today, "2026.09"},
		{"one without an ID, in the group of the release", Machine{Groups: []string{"canary"}}, today, "2026.10"},
	} {
		got, err := r.For(row.m, row.now)
		if err != nil || got.Version != row.want || got.Earlier != nil {
			t.Errorf("%s: release %q with %d earlier ones, %v; want %q", row.name, got.Version, len(got.Earlier), err, row.want)
		}
	}
	r.Earlier[1].Rollout = &Rollout{Hold: []string{"lab"}}
	_, err := r.For(Machine{ID: "0", Groups: []string{"lab"}}, today)
	refused(t, err, fs.ErrNotExist, "does not include this machine, which is in lab, and no earlier release beside it does")
}

// rollOut publishes the release of rolled with a role version.
func (r *repo) rollOut(change func(*Release)) Release {
	r.numbers["stable-x86_64"] = 7
	release := rolled()
	release.Repository, release.SignedAt = r.id, r.signedAt
	release.Rollout.NotBefore = time.Time{}
	change(&release)
	role, err := Encode(release)
	r.ok(err)
	r.publish(r.signed("stable", "x86_64", role, r.owners...))
	return release
}

// Verify takes the release for the machine, and so does LastGood. go-tuf reads the same files.
func TestVerifyChoosesTheReleaseForTheMachine(t *testing.T) {
	r := newRepo(t)
	r.rollOut(func(*Release) {})
	for group, want := range map[string]string{"": "2026.09", "canary": "2026.10", "lab": "2026.08+a"} {
		p := r.policy(t.TempDir())
		p.Machine = Machine{ID: "0", Groups: []string{group}}
		v := r.boot(r.files, p)
		if got := v.Release(); got.Version != want || got.Number != 7 || got.Earlier != nil {
			t.Errorf("group %q: release %q version %d, want %q", group, got.Version, got.Number, want)
		}
		if n := v.Newest(); n.Version != "2026.10" || len(n.Earlier) != 2 {
			t.Errorf("group %q: the newest is %q with %d earlier ones", group, n.Version, len(n.Earlier))
		}
		good, err := LastGood(t.Context(), p)
		if err != nil || good.Release().Version != want {
			t.Errorf("group %q: the last good release is %v, %v", group, good, err)
		}
	}
	before := maps.Clone(r.files)
	p := r.policy(t.TempDir())
	p.Machine = Machine{Groups: []string{"lab"}}
	r.rollOut(func(release *Release) {
		release.Number, release.Earlier = 8, release.Earlier[:1]
		r.numbers["stable-x86_64"] = 8
	})
	_, err := Verify(t.Context(), r.files, p)
	refused(t, err, fs.ErrNotExist, "does not include this machine")
	// The state keeps the metadata of a release that is for other machines.
	_, err = Verify(t.Context(), before, p)
	refused(t, err, ErrRollback, "older")
}

// The path of an artifact is that of the target in the manifest, also for a release that is not the newest.
func TestTargetPathsAreThoseOfTheManifest(t *testing.T) {
	r := newRepo(t)
	r.rollOut(func(*Release) {})
	doc, err := Open(r.files["7.stable-x86_64.json"])
	r.ok(err)
	signed := map[string]int64{}
	for _, target := range doc.Targets() {
		signed[target.HashedPath()] = target.Length
	}
	for group, prefix := range map[string]string{"": "stable/x86_64/earlier-4-", "canary": "stable/x86_64/", "lab": "stable/x86_64/earlier-3-"} {
		p := r.policy("")
		p.Machine = Machine{ID: "0", Groups: []string{group}}
		v := r.boot(r.files, p)
		for _, a := range v.Release().Artifacts {
			path := v.TargetPath(a)
			if length, ok := signed[path]; !ok || length != a.Length {
				t.Errorf("group %q, %s: %q is not a target", group, a.Role, path)
			}
			want := Target{Path: prefix + a.Role, SHA256: a.SHA256}
			if a.Role == RoleKernel && path != want.HashedPath() {
				t.Errorf("group %q: %q, want %q", group, path, want.HashedPath())
			}
		}
	}
}

// A machine without a clock checks not_before at the reference time, and LastGood at the clock.
func TestNotBeforeIsCheckedAtTheReferenceTime(t *testing.T) {
	r := newRepo(t)
	r.rollOut(func(release *Release) { release.Rollout = &Rollout{NotBefore: today.Add(time.Hour)} })
	p := r.policy(t.TempDir())
	for _, row := range []struct {
		after time.Duration
		want  string
	}{{0, "2026.09"}, {time.Hour - time.Second, "2026.09"}, {time.Hour, "2026.10"}} {
		p.Now = today.Add(row.after)
		v := r.boot(r.files, p)
		good, err := LastGood(t.Context(), p)
		r.ok(err)
		if got, good := v.Release().Version, good.Release().Version; got != row.want || good != row.want {
			t.Errorf("after %v: release %q, last good %q; want %q", row.after, got, good, row.want)
		}
	}
}

// The vector is a release that the golden repository could have next: its targets.json covers the paths.
func TestGoldenRolloutIsMadeByteForByte(t *testing.T) {
	r := newRepo(t)
	release := rolled()
	release.SignedAt, release.Expires, release.Repository = r.signedAt, r.expires["release"], r.id
	for i := range release.Earlier {
		e := &release.Earlier[i]
		e.SignedAt, e.Expires, e.Repository = release.SignedAt, release.Expires, release.Repository
	}
	role, err := Encode(release)
	r.ok(err)
	data := sign(t, KindRole, role, r.owners...)
	path := filepath.Join(vectors, "rollout", kinds[KindRole])
	if *update {
		r.ok(os.MkdirAll(filepath.Dir(path), 0o755))
		r.ok(os.WriteFile(path, data, 0o644))
	}
	if want := read(t, "rollout", kinds[KindRole]); !bytes.Equal(want, data) {
		t.Errorf("%s is not as it was:\n%s", path, data)
	}
	got, err := CheckRole(read(t, "repository", "1.root.json"), read(t, "repository", "1.targets.json"), data, today)
	r.ok(err)
	if diff := cmp.Diff(release, got, compareCIDs); diff != "" {
		t.Error(diff)
	}
}

// Decisions of a machine, for other implementations.
func TestGoldenDraws(t *testing.T) {
	r := valid()
	var got []int
	for _, id := range machines(8) {
		got = append(got, r.percentile(id))
	}
	if want := []int{89, 82, 63, 83, 60, 99, 5, 15}; !slices.Equal(got, want) {
		t.Errorf("percentiles %v, want %v", got, want)
	}
}
