# Phase Boot. `make help` lists the targets.

GO         ?= go
BIN        ?= bin
BUILD      ?= build
PREFIX     ?= /usr/local
DESTDIR    ?=
ARCH       ?= x86_64
FLAVOUR    ?= vm
IMAGE_SIZE ?= 1G
ROOT       ?=
LOCK       ?= imagebuild/inputs.lock
FUZZTIME   ?= 20s
BENCHTIME  ?= 1s
SHOW       ?= 1,2,3,4,6,7,8
PLOT       ?= $(BUILD)/dht-growth.svg
NODES      ?= 25,50,100,200,400,1000
RUNS       ?= 3
RELEASES   ?= small,demo
BOOTFLAGS  ?=
VULNDB     ?=
KERNEL     ?=
KERNEL_OPTIONS ?=
KEXEC_CERT ?=
ROW        ?= .*
PARALLEL   ?= 2

# The version stamp is the commit's hash. It does not depend on the clone's tags, owner or number
# of objects, so the same sources give the same bytes. Without git it is empty.
STAMP      = $(if $(wildcard .git),$(shell GIT_OPTIONAL_LOCKS=0 git -c safe.directory='*' describe --always --dirty --abbrev=12 --exclude='*'))
BUILDFLAGS := -trimpath -buildvcs=false -ldflags "-s -w"
GOBUILD  = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags "-s -w -X github.com/phaseboot/phaseboot/internal/cli.version=$(STAMP)"
TOOL    := $(GO) tool -modfile=tools/go.mod
# all packages except those whose tests take minutes: they boot machines, build images, or run
# all attacks of bench/siege
QUICK    = $$($(GO) list ./... | grep -v -e /internal/e2e -e /bench/siege$$ -e /imagebuild$$ -e /cmd/phase-image$$)
IMAGE    = $(BIN)/phase-image

# a new line, which ends a command in a list of commands
define newline


endef

# ARCH is x86_64, arm64, or all for one image that boots both. The programs that an image for
# another architecture than this machine's contains are in a folder of bin/ with its name.
HOSTARCH  := $(if $(filter aarch64 arm64,$(shell uname -m)),arm64,x86_64)
ARCHS      = $(if $(filter all,$(ARCH)),x86_64 arm64,$(ARCH))
FOREIGN    = $(filter-out $(HOSTARCH),$(ARCHS))
GOARCH_x86_64 := amd64
GOARCH_arm64  := arm64
# without ROOT=, images trust the development repository
DEV        = $(BUILD)/dev
TRUST      = $(or $(ROOT),$(DEV)/repo/root.json)
USBIMAGE   = $(BUILD)/phase-boot-$(ARCH).img
# the packages of the list; of the default list, this machine's newest ones if one is gone from the mirrors
LOCKED     = $(if $(LOCK),--lock $(LOCK)$(if $(filter file,$(origin LOCK)), --lock-fallback))
OWNKERNEL  = $(if $(KERNEL),--kernel "$(KERNEL)")

.DEFAULT_GOAL := all
.PHONY: all binaries deps deps-outdated check test test-machine test-wire screenshots demo bench bench-net bench-objects bench-boot bench-image bench-plasm jobs microbench fuzz vuln clean help root need-arch need-dev \
	install deb need-build need-image need-rootfs need-kernel-x86_64 need-kernel-arm64 need-demo need-deb need-test need-qemu-x86 need-qemu-arm64 \
	esp initramfs rootfs image inputs kernel-x86_64 kernel-arm64 test-qemu-x86 test-qemu-arm64

# need-TARGET installs the packages that TARGET needs. It stands first in a list of
# prerequisites, because make builds them in order.
need-build need-image need-rootfs need-kernel-x86_64 need-kernel-arm64 need-demo need-deb need-test need-qemu-x86 need-qemu-arm64: need-%:
	@GO="$(GO)" scripts/deps-check.sh --install $*

all: esp initramfs rootfs image ## build everything: commands, ESP, initramfs, root filesystem, image (ARCH=x86_64|arm64|all, ROOT=root.json)

binaries: need-arch ## build all commands (static) and the demo's job into bin/
	@mkdir -p $(BIN)
	$(GOBUILD) -o $(BIN)/ ./cmd/...
	$(foreach a,$(FOREIGN),mkdir -p $(BIN)/$(a) && GOARCH=$(GOARCH_$(a)) $(GOBUILD) -o $(BIN)/$(a)/ ./cmd/phase-boot ./cmd/plasmd$(newline))
	CGO_ENABLED=0 GOWASM= GOFLAGS= GOOS=wasip1 GOARCH=wasm $(GO) build $(BUILDFLAGS) -o $(BIN)/hello.wasm ./plasm/jobs/hello

# the jobs of plasm/jobs that are Go programs for WASI
JOBS = hello reverse primes wordcount hog spin flood deep
SUMS = plasm/jobs/SHA256SUMS

jobs: ## build the jobs of plasm/jobs into bin/jobs/, and compare them with plasm/jobs/SHA256SUMS
	@mkdir -p $(BIN)/jobs
	$(foreach j,$(JOBS),CGO_ENABLED=0 GOWASM= GOFLAGS= GOOS=wasip1 GOARCH=wasm $(GO) build $(BUILDFLAGS) -o $(BIN)/jobs/$(j).wasm ./plasm/jobs/$(j)$(newline)	)
	$(GO) run ./plasm/jobs/byhand $(BIN)/jobs
	cp plasm/jobs/greet/greet.wasm $(BIN)/jobs/
	@made="$$(sed -n 's/^# //p' $(SUMS))" have="$$($(GO) env GOVERSION)"; \
	if [ "$$made" = "$$have" ]; then (cd $(BIN)/jobs && sha256sum --quiet -c) <$(SUMS); \
	else echo "$(SUMS) is of $$made, this is $$have: the jobs are not compared"; fi

deps: ## install missing Debian packages for all targets except bench, bench-net and bench-image
	@GO="$(GO)" scripts/deps-check.sh --install

deps-outdated: ## list newer versions of the Go modules, and whether the commands build with them
	@GO="$(GO)" scripts/deps-outdated.sh

# go vet has run before the tests, the longest packages are first, and many tests wait
check: ## run gofumpt, vet, staticcheck and the short tests
	@out=$$($(TOOL) gofumpt -l $$(git ls-files -co --exclude-standard '*.go')); \
		[ -z "$$out" ] || { echo "gofumpt: run 'go tool -modfile=tools/go.mod gofumpt -w' on:"; echo "$$out"; exit 1; } >&2
	$(GO) vet ./...
	$(GO) vet -tags machine ./internal/e2e
	$(TOOL) staticcheck ./...
	$(GO) test -vet=off -short -p 4 -parallel 8 ./bootclient ./docs $(QUICK)
	$(GO) test -run '^TestFormat' ./imagebuild

# The longest package is first. Four run at a time, because many tests wait: for machines, for disks, for timers.
# Without the race detector run the two packages that build images, because it makes compression three times slower (it
# checks the tests of imagebuild that build no image), and those that start no goroutine.
PLAIN = ./imagebuild ./cmd/phase-image ./cmd/phase-sign ./manifest ./signer

test: need-test binaries ## run all tests, most with the race detector, and boot machines in QEMU
	CGO_ENABLED=1 GORACE="$${GORACE:-atexit_sleep_ms=0}" $(GO) test -race -p 4 -timeout 60m ./internal/e2e $$($(GO) list ./... | grep -v -x $(PLAIN:./%=-e '.*/%'))
	CGO_ENABLED=1 $(GO) test -race -run '^TestFormat' ./imagebuild
	$(GO) test -timeout 30m $(PLAIN)
	@echo "formats and their judges (docs/FORMATS.md):"; sed -n '/^```formats$$/,/^```$$/{/^```/!p}' docs/FORMATS.md

# two rows at a time, because most of a row is waiting
test-machine: need-test ## boot machines in every situation of docs/MATRIX.md and print the table (ROW=NAME, PARALLEL=2); then cut the power at each write, and others
	$(GO) test -tags machine -run '^TestMatrix$$/^$(ROW)$$' -v -count=1 -timeout 3h -parallel $(PARALLEL) ./internal/e2e
	$(if $(filter .*,$(ROW)),$(GO) test -tags machine -run '^TestMachine' -v -count=1 -timeout 1h -parallel $(PARALLEL) ./internal/e2e)

screenshots: need-test binaries ## boot machines in QEMU, open the admin page in Chromium, and write the screenshots of the documents, docs/images/*.png (PAGE=only)
	@GO="$(GO)" scripts/screenshots.sh

test-wire: need-test ## boot machines in each mode, also through Tor, and compare all that they send with the table of docs/NETWORK.md
	$(GO) test -tags machine -run '^(TestBootThroughTor|TestPrivateBoots|TestAModeSends)' -v -count=1 -timeout 1h -parallel $(PARALLEL) ./internal/e2e

demo: need-demo binaries jobs ## make keys, publish a release and boot it in QEMU
	scripts/demo.sh

bench: ## measure the store, b3sum, cp, casync, xdelta3 and zsync (minutes, 15 GB of disk)
	@GO="$(GO)" scripts/deps-check.sh --install bench
	scripts/bench-pair.sh $(BUILD)/pair
	$(GO) run ./bench/store -dir $(BUILD) -pair $(BUILD)/pair

bench-net: binaries ## measure delivery, nginx, curl and BitTorrent in network namespaces (SHOW=1,2,3,4,6,7,8 NODES=25,50,…)
	@GO="$(GO)" scripts/deps-check.sh --install bench-net
	scripts/bench-pair.sh $(BUILD)/pair
	$(GO) run ./bench/net -bin $(BIN) -dir $(BUILD) -pair $(BUILD)/pair -show $(SHOW) -svg $(PLOT) -nodes $(NODES)

bench-objects: ## measure a store in an object store beside plain copies (minutes, 5 GB of disk; the first time it builds an S3 server)
	$(GO) run ./bench/objects -dir $(BUILD)

bench-boot: need-test binaries ## measure a boot in QEMU beside direct boots of both kernels (RUNS=3 RELEASES=small,demo BOOTFLAGS=), or with BOOTFLAGS=-smallest the smallest memory that boots
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -o $(BUILD)/bench-boot ./bench/boot
	$(BUILD)/bench-boot -bin $(BIN) -dir $(BUILD) -runs $(RUNS) -releases $(RELEASES) $(BOOTFLAGS)

bench-image: binaries ## measure each image format with an empty and a filled cache, beside Debian's tools (RUNS=3 MKOSI=yes)
	@GO="$(GO)" scripts/deps-check.sh --install test bench-image
	BIN="$(BIN)" RUNS=$(RUNS) scripts/bench-image.sh $(BUILD)/bench-image

bench-plasm: binaries jobs ## measure starts and computing of jobs beside Go for the host, node's WASI (if it is there) and wazero in one process
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -o $(BUILD)/bench-plasm ./bench/plasm
	$(BUILD)/bench-plasm -bin $(BIN) -dir $(BUILD)

microbench: ## run the Go benchmarks (BENCHTIME=1s)
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $(QUICK)

fuzz: ## run every fuzz target (FUZZTIME=20s each)
	@set -e; for file in $$(git grep -l '^func Fuzz' -- '*_test.go'); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			echo "== $$file $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "./$$(dirname "$$file")"; \
		done; \
	done

vuln: ## list known vulnerabilities in code that we call (VULNDB=file:///DIR for a local database)
	$(TOOL) govulncheck $(if $(VULNDB),-db $(VULNDB)) ./...

clean: ## remove bin/ and build/
	rm -rf $(BIN) $(BUILD)

install: binaries ## install commands, man pages, completions and units: make install [PREFIX=/usr/local] [DESTDIR=]
	PREFIX="$(PREFIX)" DESTDIR="$(DESTDIR)" BIN="$(BIN)" scripts/install.sh

deb: need-deb binaries ## pack the files of make install as a Debian package in build/
	@mkdir -p $(BUILD)
	BIN="$(BIN)" BUILD="$(BUILD)" scripts/make-deb.sh

# An unknown architecture is refused before anything is built.
need-arch:
	@case "$(ARCH)" in x86_64 | arm64 | all) ;; *) echo "ARCH=$(ARCH): unknown; use x86_64, arm64, or all for an image that boots both" >&2; exit 2 ;; esac

root: need-image binaries
	@mkdir -p $(BUILD)
	$(if $(ROOT),,@BIN="$(abspath $(BIN))" scripts/dev-repo.sh $(DEV))

image: root ## build a USB image: make image [ROOT=repo/root.json] [ARCH=x86_64|arm64|all] [IMAGE_SIZE=1G] [LOCK=FILE|] [KERNEL=kernel.deb]
	$(IMAGE) usb $(LOCKED) --root "$(TRUST)" --arch $(ARCH) --flavour $(FLAVOUR) $(OWNKERNEL) --size $(IMAGE_SIZE) --out $(USBIMAGE)

esp: root ## build only the EFI system partition
	$(IMAGE) esp $(LOCKED) --root "$(TRUST)" --arch $(ARCH) --flavour $(FLAVOUR) $(OWNKERNEL) --out $(BUILD)/esp-$(ARCH).img

initramfs: root ## build only the boot initramfs
	$(foreach a,$(ARCHS),$(IMAGE) initramfs $(LOCKED) --role boot --root "$(TRUST)" --arch $(a) --flavour $(FLAVOUR) $(OWNKERNEL) --out $(BUILD)/initramfs-$(a)$(newline))

rootfs: need-rootfs binaries ## build the demo's root filesystem
	@mkdir -p $(BUILD)
	$(foreach a,$(ARCHS),$(IMAGE) rootfs $(LOCKED) --arch $(a) --flavour $(FLAVOUR) --out $(BUILD)/rootfs-$(a).squashfs$(newline))

kernel-x86_64 kernel-arm64: kernel-%: need-kernel-% binaries ## compile a small boot kernel from Debian's sources (KERNEL_OPTIONS=file KEXEC_CERT=file)
	@mkdir -p $(BUILD)
	$(IMAGE) kernel --build $(LOCKED) --arch $* $(if $(KERNEL_OPTIONS),--options "$(KERNEL_OPTIONS)") $(if $(KEXEC_CERT),--kexec-cert "$(KEXEC_CERT)") --out $(BUILD)/kernel-$*.deb

inputs: need-image binaries ## renew imagebuild/inputs.lock: the packages of today's images, from Debian's signed lists
	$(IMAGE) inputs --out imagebuild/inputs.lock

need-dev:
	@[ -z "$(ROOT)" ] || { echo "ROOT=$(ROOT): this target publishes a release of the development repository; leave ROOT away. scripts/test-qemu-x86.sh and scripts/test-qemu-arm64.sh boot any image" >&2; exit 2; }

test-qemu-x86: ARCH := x86_64
test-qemu-arm64: ARCH := arm64
test-qemu-x86 test-qemu-arm64: test-qemu-%: need-dev need-qemu-% image rootfs ## boot the image in QEMU until the target has run its job; the console is this terminal
	BIN="$(abspath $(BIN))" DEV_DIR="$(DEV)" FLAVOUR="$(FLAVOUR)" scripts/test-boot.sh $(subst x86,x86_64,$*) $(USBIMAGE) $(BUILD)/rootfs-$(subst x86,x86_64,$*).squashfs

help: ## list the targets
	@sed -n 's/^\([a-z][a-z0-9_ -]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name words; do printf '  %-28s %s\n' "$$name" "$$words"; done
