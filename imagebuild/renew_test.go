package imagebuild

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/phaseboot/phaseboot/cas"
	"github.com/phaseboot/phaseboot/manifest"
	"github.com/phaseboot/phaseboot/manifest/repotest"
)

// A renewable is a stick, the repository that it trusts, and a folder for artifacts.
type renewable struct {
	*testing.T
	b                      *Builder
	stick, repo, artifacts string
	signed                 time.Time
	kernel                 []byte
}

func newRenewable(t *testing.T) *renewable {
	t.Helper()
	r := &renewable{T: t, b: testBuilder(t), stick: filepath.Join(t.TempDir(), "stick"), repo: t.TempDir(), artifacts: t.TempDir(), signed: time.Unix(1.75e9, 0)}
	check(t, errors.Join(repotest.New(r.repo), os.Mkdir(r.at("boot"), 0o755)))
	tree := validTree(t, r.b)
	r.kernel = tree.files["phase/vmlinuz"]
	tree.files["phase/initramfs.zst"] = zstdOf(t, r.archiveOf("1700000000"))
	check(t, errors.Join(os.WriteFile(r.stick, nil, 0o600), r.b.makeDisk(t.Context(), tree, layOut(tree, 300*mib), r.stick)))
	return r
}

// clone returns a copy for a subtest.
func (r *renewable) clone(t *testing.T) *renewable {
	t.Helper()
	c, dir := *r, t.TempDir()
	c.T, c.stick, c.repo, c.artifacts = t, filepath.Join(dir, "stick"), filepath.Join(dir, "repo"), filepath.Join(dir, "artifacts")
	for from, to := range map[string]string{r.stick: c.stick, r.repo: c.repo, r.artifacts: c.artifacts} {
		if out, err := exec.Command("cp", "-r", "--sparse=always", from, to).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return &c
}

// archiveOf returns an initramfs with the newest root of the repository, built at a time.
func (r *renewable) archiveOf(built string) string {
	r.Helper()
	root, err := os.ReadFile(filepath.Join(r.repo, "root.json"))
	if err != nil {
		r.Fatal(err)
	}
	text := strings.Replace(validArchive(r.T), fileMember("etc/phase/root.json", string(testRoot(r.T))), fileMember("etc/phase/root.json", string(root)), 1)
	return strings.Replace(text, fileMember("etc/phase/build-time", "1700000000\n"), fileMember("etc/phase/build-time", built+"\n"), 1) + trailer
}

// publish writes a release with a boot set.
func (r *renewable) publish(number int64, version, archive string) {
	r.Helper()
	files := map[string]string{"kernel": r.at("boot/kernel"), "initramfs": r.at("boot/initramfs"), manifest.RoleBootKernel: r.at("boot/kernel"), manifest.RoleBootInitramfs: r.at("boot/initramfs")}
	err := errors.Join(os.WriteFile(r.at("boot/kernel"), r.kernel, 0o600), os.WriteFile(r.at("boot/initramfs"), zstdOf(r.T, archive), 0o600))
	if err = errors.Join(err, repotest.Publish(r.repo, number, version, r.signed, files)); err != nil {
		r.Fatal(err)
	}
}

func (r *renewable) at(role string) string { return filepath.Join(r.artifacts, role) }

func (r *renewable) renew() (*Renewal, error) {
	return r.b.Renew(r.Context(), r.stick, RenewOptions{Repo: r.repo, Artifacts: r.artifacts, Now: r.signed.Add(time.Hour)})
}

// verify verifies the stick as phase-image verify --repo --root does.
func (r *renewable) verify() (*Contents, error) {
	root, err := os.ReadFile(filepath.Join(r.repo, "1.root.json"))
	if err != nil {
		return nil, err
	}
	c, err := r.b.Verify(r.Context(), r.stick)
	if err == nil {
		err = c.CompareReleases(r.Context(), r.repo)
	}
	if err == nil {
		err = c.CompareRoot(root)
	}
	return c, err
}

func TestARenewedStickIsVerified(t *testing.T) {
	r := newRenewable(t)
	r.publish(7, "7.0", r.archiveOf("1700000001"))
	done, err := r.renew()
	if err != nil || !done.Written {
		t.Fatalf("%+v, %v", done, err)
	}
	c, err := r.verify()
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Renewed) != 1 || c.Renewed[0].State != "on trial, 3 of 3 tries left" || c.Renewed[0].Release != "7.0" || c.Renewed[0].BuildTime != "1700000001" {
		t.Errorf("%+v", c.Renewed)
	}
	if done, err = r.renew(); err != nil || done.Written || !strings.Contains(done.Words, "up to date") {
		t.Errorf("again: %+v, %v", done, err)
	}
	if err := repotest.Rotate(r.repo, 2); err != nil {
		t.Fatal(err)
	}
	r.publish(9, "9.0", r.archiveOf("1700000002"))
	if done, err = r.renew(); err != nil || !done.Written || len(done.Sets) != 1 {
		t.Errorf("with the next root: %+v, %v", done, err)
	}
	if c, err = r.verify(); err != nil || len(c.Renewed) != 1 || c.Renewed[0].Root.Version != 2 {
		t.Errorf("with the next root: %+v, %v", c, err)
	}
}

func TestAStickIsNotRenewedWith(t *testing.T) {
	first := newRenewable(t)
	first.publish(7, "7.0", first.archiveOf("1700000001"))
	for name, c := range map[string]struct {
		change func(r *renewable)
		want   error
		words  string
	}{
		"another file than the signed one": {func(r *renewable) { patch(r.T, r.at("boot/initramfs"), 30, []byte{0xff}) }, cas.ErrCorrupt, "signed is"},
		"no file":                          {func(r *renewable) { os.Remove(r.at("boot/kernel")) }, fs.ErrNotExist, "phase-publish get write it"},
		"a release without a boot set": {func(r *renewable) {
			check(r.T, repotest.Publish(r.repo, 8, "8.0", r.signed, map[string]string{"kernel": r.at("boot/kernel"), "initramfs": r.at("boot/kernel")}))
		}, fs.ErrNotExist, "no boot set"},
		"a release that is older than the stick": {func(r *renewable) {
			r.signed = time.Unix(1.6e9, 0)
			r.publish(8, "8.0", r.archiveOf("1700000003"))
		}, manifest.ErrRollback, "before the stick was built"},
		"an older release than that of its boot set": {func(r *renewable) {
			r.publish(9, "9.0", r.archiveOf("1700000003"))
			_, err := r.renew()
			check(r.T, err)
			r.publish(8, "8.0", r.archiveOf("1700000004"))
		}, manifest.ErrRollback, "older boot set"},
		"another root": {func(r *renewable) {
			r.publish(8, "8.0", archiveWith(r.T, ""))
		}, manifest.ErrUntrusted, "its root.json is neither that of the stick"},
		"another channel": {func(r *renewable) {
			r.publish(8, "8.0", strings.Replace(r.archiveOf("1700000003"), fileMember("etc/phase/channel", "stable\n"), fileMember("etc/phase/channel", "beta\n"), 1))
		}, cas.ErrCorrupt, `channel "beta"`},
		"another repository": {func(r *renewable) { check(r.T, os.RemoveAll(r.repo)) }, fs.ErrNotExist, "repository"},
	} {
		t.Run(name, func(t *testing.T) {
			r := first.clone(t)
			c.change(r)
			before, err := sumOf(opened(t, r.stick))
			check(t, err)
			if _, err := r.renew(); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v", err)
			}
			if after, err := sumOf(opened(t, r.stick)); err != nil || after != before {
				t.Errorf("the stick was changed, %v", err)
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func opened(t *testing.T, name string) io.Reader {
	t.Helper()
	f, err := os.Open(name)
	check(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// Everything else than a set that phase-image or a machine has written is refused.
func TestAttackARenewedStickThatBootsWhatVerifyDoesNotShow(t *testing.T) {
	r := newRenewable(t)
	r.publish(7, "7.0", r.archiveOf("1700000001"))
	done, err := r.renew()
	check(t, err)
	folder, entry := "::/phase/"+done.ID.String(), "::/loader/entries/local_7+3.conf"
	valid := r.stick
	for name, script := range map[string]string{
		"":                            "true",
		"the loader has counted":      "mren -i $F " + entry + " ::/loader/entries/local_7+2-1.conf",
		"another file in the set":     "mcopy -i $F x " + folder + "/other",
		"no kernel":                   "mdel -i $F " + folder + "/vmlinuz",
		"another initramfs":           "mcopy -o -i $F x " + folder + "/initramfs.zst",
		"no entry":                    "mdel -i $F '::/loader/entries/*_7+3.conf'",
		"a second set of its number":  "mmd -i $F ::/phase/7-0123456789abcdef; mcopy -i $F x ::/phase/7-0123456789abcdef/vmlinuz; mcopy -i $F x ::/phase/7-0123456789abcdef/initramfs.zst",
		"an entry without a set":      "mcopy -i $F e ::/loader/entries/local_8+3.conf",
		"an entry of no mode":         "mcopy -i $F e ::/loader/entries/lab_7+3.conf",
		"another command line":        "sed 's/^options /options quiet quiet /' e >e2; mcopy -o -i $F e2 " + entry,
		"another release in a title":  "sed 's/release 7.0/release 8.0/' e >e2; mcopy -o -i $F e2 " + entry,
		"the kernel of the built set": "sed 's|^linux.*|linux    /phase/vmlinuz|' e >e2; mcopy -o -i $F e2 " + entry,
	} {
		t.Run(name, func(t *testing.T) {
			r := *r
			r.T, r.stick = t, filepath.Join(t.TempDir(), "stick")
			cmd := exec.Command("sh", "-euc", `cp --sparse=always "$1" "$2"; F="$2@@1M"; echo x >x; mcopy -n -i $F `+entry+` e; `+script, "sh", valid, r.stick)
			cmd.Dir = t.TempDir()
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			c, err := r.verify()
			if good := slices.Contains([]string{"", "the loader has counted"}, name); good && err != nil || !good && !errors.Is(err, cas.ErrCorrupt) {
				t.Errorf("got %v", err)
			}
			if name == "the loader has counted" && c.Renewed[0].State != "on trial, 2 of 3 tries left" {
				t.Errorf("%+v", c.Renewed)
			}
		})
	}
}

// A power cut leaves a folder without a boot entry. The next renewal mends the stick.
func TestARenewalThatWasCutIsMended(t *testing.T) {
	r := newRenewable(t)
	r.publish(7, "7.0", r.archiveOf("1700000001"))
	cmd := exec.Command("sh", "-euc", `F="$1@@1M"; mmd -i $F ::/phase/5-0123456789abcdef; mcopy -i $F "$2" ::/phase/5-0123456789abcdef/vmlinuz`, "sh", r.stick, r.at("boot/initramfs"))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := r.verify(); !errors.Is(err, errInterrupted) || !errors.Is(err, cas.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	if done, err := r.renew(); err != nil || !done.Written {
		t.Errorf("%+v, %v", done, err)
	}
	if _, err := r.verify(); err != nil {
		t.Error(err)
	}
}

// An old boot set of the same publisher is signed too. The loader would start it before the newer one of the image.
func TestAttackABootSetThatIsOlderThanItsStick(t *testing.T) {
	r := newRenewable(t)
	r.publish(7, "7.0", r.archiveOf("1700000001"))
	_, err := r.renew()
	check(t, err)
	r.signed = time.Unix(1.6e9, 0) // the image is of 1.7e9
	r.publish(7, "7.0", r.archiveOf("1700000001"))
	if _, err := r.verify(); !errors.Is(err, manifest.ErrRollback) || !strings.Contains(err.Error(), "boot set 7: release \"7.0\": signed 2020-09-13T12:26:40Z, before the stick was built") {
		t.Errorf("got %v", err)
	}
}

// A stick for both architectures is mended for both.
func TestARenewalOfTheSecondArchitectureThatWasCutIsMended(t *testing.T) {
	r := newRenewable(t)
	const script = `F="$1@@1M"; mmd -i $F ::/phase/arm64 ::/phase/arm64/5-0123456789abcdef; mcopy -n -i $F ::/loader/entries/local.conf "$2"
mcopy -i $F "$2" ::/loader/entries/local_arm64.conf; mcopy -i $F "$2" ::/phase/arm64/5-0123456789abcdef/vmlinuz`
	if out, err := exec.Command("sh", "-euc", script, "sh", r.stick, filepath.Join(t.TempDir(), "e")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := os.OpenFile(r.stick, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	if !mendStick(f) {
		t.Error("nothing was mended")
	}
	if out, err := exec.Command("mdir", "-i", r.stick+"@@1M", "-b", "::/phase/arm64").Output(); err != nil || strings.Contains(string(out), "5-0123456789abcdef") {
		t.Errorf("%s, %v", out, err)
	}
}
