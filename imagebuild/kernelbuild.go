package imagebuild

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/phaseboot/phaseboot/internal/file"
)

// KernelBuild is what BuildKernel makes a kernel of.
type KernelBuild struct {
	Arch    string
	Options []byte // more options, as in imagebuild/kernel/config-common; they win over those
	Certs   []byte // certificates (PEM) of keys that sign kernels of releases, for kexec
}

// KernelInfo describes a kernel that was built.
type KernelInfo struct {
	Out     string    `json:"out"`
	Size    int64     `json:"size"`
	Kernel  string    `json:"kernel"`
	Source  string    `json:"source"`
	Options int       `json:"options"` // of the configuration that are on
	Date    time.Time `json:"date"`
}

// A kernelArch is what the kernel's Makefile calls an architecture.
type kernelArch struct{ arch, name, cross, target, image string }

var kernelArchs = []kernelArch{
	{"x86_64", "x86_64", "x86_64-linux-gnu-", "bzImage", "arch/x86/boot/bzImage"},
	{"arm64", "arm64", "aarch64-linux-gnu-", "Image", "arch/arm64/boot/Image"},
}

// kernelSource is Debian's package of the kernel's sources. The options in kernel/ are for this
// version: an option that the sources do not have is refused.
const kernelSource = "linux-source-6.1"

// BuildKernel builds a boot kernel from Debian's sources with the options in kernel/, and writes it
// to out as a Debian package. The same sources, options and compiler give the same bytes. It takes
// minutes to an hour, so the result is kept in the cache.
func (b *Builder) BuildKernel(ctx context.Context, in KernelBuild, out string) (*KernelInfo, error) {
	if err := checkOut(out); err != nil {
		return nil, err
	}
	k, err := b.planKernel(ctx, in)
	if err != nil {
		return nil, err
	}
	packed, err := b.cached(k.cacheName(), func(file string) error { return b.buildKernel(ctx, k, file) })
	if err != nil {
		return nil, err
	}
	dir, err := b.unpackFile(ctx, packed)
	if err != nil {
		return nil, err
	}
	kernel, err := openKernel(in.Arch, dir, packed)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(packed)
	if err != nil {
		return nil, err
	}
	options := bytes.Count(kernel.config(), []byte("=y\n"))
	return &KernelInfo{out, info.Size(), kernel.Version, k.source.Name + " " + k.source.Version, options, k.date}, copyFile(packed, out)
}

// A kernelPlan has all that the bytes of a kernel depend on.
type kernelPlan struct {
	kernelArch
	platform Platform
	source   deb
	tarball  string // path
	options  string // text of a configuration
	certs    []byte
	tools    []byte // versions of compiler and linker
	date     time.Time
}

// planKernel finds the sources and checks the tools.
func (b *Builder) planKernel(ctx context.Context, in KernelBuild) (*kernelPlan, error) {
	p, err := ParsePlatform(in.Arch, "vm")
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(kernelArchs, func(a kernelArch) bool { return a.arch == in.Arch })
	k := &kernelPlan{kernelArch: kernelArchs[i], platform: p, certs: in.Certs}
	if len(in.Certs) > 0 {
		if block, _ := pem.Decode(in.Certs); block == nil || block.Type != "CERTIFICATE" {
			return nil, optionsf("kexec certificate: not a certificate in PEM; convert it with openssl x509")
		}
		k.options = "CONFIG_SYSTEM_TRUSTED_KEYS=\"" + kernelCerts + "\"\n"
	}
	if err := k.requireTools(); err != nil {
		return nil, err
	}
	k.options = mergeOptions(dataFile("kernel/config-common"), dataFile("kernel/config-"+in.Arch), string(in.Options), k.options)
	for _, tool := range []string{"gcc", "ld"} {
		version, err := command(k.cross+tool, "--version").output(ctx)
		if err != nil {
			return nil, err
		}
		k.tools = append(k.tools, version...)
	}
	if k.source, err = b.resolve(ctx, kernelSource, hostArch); err != nil {
		return nil, fmt.Errorf("%w; it is a package of Debian 12", err)
	}
	dir, err := b.unpack(ctx, k.source)
	if err != nil {
		return nil, err
	}
	k.tarball = filepath.Join(dir, "usr/src", kernelSource+".tar.xz")
	info, err := os.Stat(k.tarball)
	if err != nil {
		return nil, err
	}
	k.date = b.date(info.ModTime())
	return k, nil
}

// kernelHeaders are files that programs of the kernel's build need, and their packages.
var kernelHeaders = []struct{ file, pack, arch string }{
	{"/usr/include/stdlib.h", "libc6-dev", ""}, {"/usr/include/openssl/opensslv.h", "libssl-dev", ""}, {"/usr/include/libelf.h", "libelf-dev", "x86_64"},
}

// requireTools reports the first program or header that is missing.
func (k *kernelPlan) requireTools() error {
	if err := requireTools("make", "gcc", "flex", "bison", "bc", "perl", "xz", "zstd", "tar", "dpkg-deb", k.cross+"gcc", k.cross+"ld"); err != nil {
		return err
	}
	for _, h := range kernelHeaders {
		if (h.arch == "" || h.arch == k.arch) && !isFile(h.file) {
			return fmt.Errorf("%s: not found; run: apt-get install %s", h.file, h.pack)
		}
	}
	return nil
}

// kernelCerts is the name of the file with the certificates, in the folder of the build.
const kernelCerts = "kexec.pem"

func (k *kernelPlan) cacheName() string {
	h := sha256.Sum256(fmt.Appendf(nil, "kernel 1\n%s\n%s\n%s\n%s\n%s\n%d", k.arch, k.source.SHA256, k.options, k.certs, k.tools, k.date.Unix()))
	return filepath.Join("kernel", fmt.Sprintf("%x.deb", h[:16]))
}

var optionLine = regexp.MustCompile(`(?m)^(?:# )?(CONFIG_[A-Za-z0-9_]+)(?:=.*| is not set)$`)

// mergeOptions joins texts of options. The last line of an option wins, and comments are left out.
func mergeOptions(texts ...string) string {
	var names []string
	lines := map[string]string{}
	for _, text := range texts {
		for _, m := range optionLine.FindAllStringSubmatch(text, -1) {
			if lines[m[1]] == "" {
				names = append(names, m[1])
			}
			lines[m[1]] = m[0]
		}
	}
	var out strings.Builder
	for _, name := range names {
		out.WriteString(lines[name] + "\n")
	}
	return out.String()
}

// missingOptions returns the lines of want that a configuration does not have. The kernel's build
// drops an option that it does not know, or whose conditions do not hold, without a word.
func missingOptions(want, config string) (missing []string) {
	has := map[string]bool{}
	on := map[string]bool{}
	for _, m := range optionLine.FindAllStringSubmatch(config, -1) {
		has[m[0]] = true
		on[m[1]] = !strings.HasPrefix(m[0], "#")
	}
	for _, m := range optionLine.FindAllStringSubmatch(want, -1) {
		off := strings.HasPrefix(m[0], "#") || strings.HasSuffix(m[0], "=n")
		if off && on[m[1]] || !off && !has[m[0]] {
			missing = append(missing, m[0])
		}
	}
	return missing
}

// buildKernel compiles a kernel and packs it.
func (b *Builder) buildKernel(ctx context.Context, k *kernelPlan, out string) error {
	tmp, clean, err := b.tempDir()
	if err != nil {
		return err
	}
	defer clean()
	source, build := filepath.Join(tmp, "source"), filepath.Join(tmp, "build")
	for name, text := range map[string][]byte{"options": []byte(k.options), kernelCerts: k.certs} {
		if err := writeBelow(build, name, text); err != nil {
			return err
		}
	}
	if err := k.unpack(ctx, b, source); err != nil {
		return err
	}
	if err := k.make(ctx, source, build, "KCONFIG_ALLCONFIG="+filepath.Join(build, "options"), "allnoconfig"); err != nil {
		return fmt.Errorf("kernel %s: %w", k.arch, err)
	}
	config, err := os.ReadFile(filepath.Join(build, ".config"))
	if err != nil {
		return err
	}
	if missing := missingOptions(k.options, string(config)); len(missing) > 0 {
		return optionsf("kernel %s: options that %s %s does not take: %s; correct them, or add the options that they depend on", k.arch, k.source.Name, k.source.Version, strings.Join(missing, ", "))
	}
	if err := k.compile(ctx, b, source, build); err != nil {
		return fmt.Errorf("kernel %s: %w", k.arch, err)
	}
	return k.pack(ctx, source, build, filepath.Join(tmp, "package"), out)
}

func (k *kernelPlan) unpack(ctx context.Context, b *Builder, source string) error {
	defer b.progress.step("unpack " + filepath.Base(k.tarball))()
	if err := os.MkdirAll(source, 0o755); err != nil {
		return file.FullDisk(err)
	}
	return command("tar", "-xf", k.tarball, "-C", source, "--strip-components=1", "--no-same-owner").run(ctx)
}

func (k *kernelPlan) compile(ctx context.Context, b *Builder, source, build string) error {
	defer b.progress.step("compile the kernel for " + k.arch)()
	return k.make(ctx, source, build, fmt.Sprintf("-j%d", runtime.NumCPU()), k.target, "modules")
}

// make runs the kernel's Makefile. Its environment is fixed: variables of the user, or of a make
// that runs this program, would change the kernel.
func (k *kernelPlan) make(ctx context.Context, source, build string, args ...string) error {
	env := []string{
		"-i", "PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "LC_ALL=C", "TZ=UTC", "TMPDIR=" + os.TempDir(),
		"KBUILD_BUILD_TIMESTAMP=" + k.date.UTC().Format(time.UnixDate), "KBUILD_BUILD_USER=phase", "KBUILD_BUILD_HOST=phase", "KBUILD_BUILD_VERSION=1",
		"make", "-s", "-C", source, "O=" + build, "ARCH=" + k.name, "CROSS_COMPILE=" + k.cross,
	}
	return command("env", append(env, args...)...).run(ctx)
}

// pack makes the Debian package: the image, its configuration, and its modules, with one date.
func (k *kernelPlan) pack(ctx context.Context, source, build, tree, out string) error {
	release, err := os.ReadFile(filepath.Join(build, "include/config/kernel.release"))
	if err != nil {
		return err
	}
	version := strings.TrimSpace(string(release))
	modules := filepath.Join("lib/modules", version)
	for from, to := range map[string]string{
		k.image: "boot/vmlinuz-" + version, ".config": "boot/config-" + version,
		builtinList: filepath.Join(modules, builtinList), "modules.builtin.modinfo": filepath.Join(modules, "modules.builtin.modinfo"), "modules.order": filepath.Join(modules, "modules.order"),
	} {
		text, err := os.ReadFile(filepath.Join(build, from))
		if err != nil {
			return err
		}
		if err := writeBelow(tree, to, text); err != nil {
			return err
		}
	}
	order, err := os.ReadFile(filepath.Join(build, "modules.order"))
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(order)) > 0 { // the user's options have modules
		if err := k.make(ctx, source, build, "INSTALL_MOD_PATH="+tree, "INSTALL_MOD_STRIP=1", "DEPMOD=true", "modules_install"); err != nil {
			return err
		}
		for _, link := range []string{"build", "source"} {
			_ = os.Remove(filepath.Join(tree, modules, link)) // they name folders of this build
		}
	}
	control := strings.NewReplacer("@VERSION@", version, "@DEBIAN@", k.source.Version, "@ARCH@", k.platform.debian, "@SOURCE@", k.source.Name).Replace(dataFile("kernel/control"))
	if err := writeBelow(tree, "DEBIAN/control", []byte(control)); err != nil {
		return err
	}
	err = filepath.WalkDir(tree, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 {
			return err
		}
		mode := os.FileMode(0o644)
		if d.IsDir() {
			mode = 0o755
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
		return os.Chtimes(path, k.date, k.date)
	})
	if err != nil {
		return err
	}
	return command("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, out).with(fmt.Sprintf("SOURCE_DATE_EPOCH=%d", k.date.Unix())).run(ctx)
}
