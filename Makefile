# make run      builds everything and opens the console on a virtual machine that really boots
# make test     runs every test; installs or names what is missing
# make build    leaves the whole binary at ./carte
# make payload  puts the agent and its kernel where go:embed finds them; a plain `go build` works without
# make e2e      only the tests that start machines, with what they say
# make bench    what carte costs, beside a limit or a peer
# make bench-peers   the part that does the same work with other tools; IMAGES=DIR keeps its 7 GB elsewhere
# make fuzz     every fuzz target for FUZZTIME
# make golden   writes the golden files anew: look at the difference before you commit it
# make shims    what lives beside a system that carte does not start, for five kinds of system, in bin/shims
# make check    a clean clone builds and passes its tests without payload

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# The same sources give the same bytes: no paths, no build ids, no C compiler.
GOFLAGS_REPEATABLE = -trimpath -buildvcs=false
LDFLAGS_REPEATABLE = -s -w -buildid=
KERNEL_MODULE      = github.com/gokrazy/kernel.amd64
PAYLOAD            = netboot/payload/bin

.PHONY: run test build payload e2e bench bench-peers fuzz golden check shims

run:
	@testdata/need run
	@$(MAKE) --no-print-directory build
	./carte demo

test:
	@testdata/need test
	@$(MAKE) --no-print-directory payload
	$(GO) vet ./...
	$(GO) test -timeout 85m $(TESTFLAGS) ./...

# What starts QEMU or real servers lives in these packages.
e2e: payload
	@testdata/need test
	$(GO) test -timeout 85m -v ./lab/labtest ./netboot/...

bench: payload
	@testdata/need bench
	$(GO) test -timeout 85m -run '^$$' -bench . -benchtime 1x ./lab/labtest
	$(GO) test -timeout 85m -run '^$$' -bench . $$($(GO) list ./... | grep -v labtest)
	@$(MAKE) --no-print-directory bench-peers

IMAGES = bin/bench-images
bench-peers:
	@testdata/need bench
	@testdata/bench-images $(IMAGES)
	CARTE_BENCH_IMAGES=$(abspath $(IMAGES)) $(GO) test -timeout 85m -run '^$$' -bench Peers -benchtime 1x ./lab/labtest

FUZZTIME = 20s
fuzz:
	@for dir in $$(grep -rl '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
		for f in $$(grep -ho '^func Fuzz[A-Za-z0-9]*' $$dir/*_test.go | cut -c6-); do \
			$(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$dir || exit 1; \
		done; \
	done

golden:
	$(GO) test ./tui ./tui/cli ./netboot -short -update

# CI is unset, because there a test that is skipped has failed.
check:
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && git clone -q . "$$dir/carte" && cd "$$dir/carte" && unset CI && \
	$(GO) build ./... && $(GO) vet ./... && $(GO) test -timeout 40m ./...

# These files are made in bin/payload and moved into place only when they differ, so
# that a build at the same time never embeds half a file, and that an unchanged
# payload does not rebuild carte. The agent runs on the machines (x86-64), whatever
# this computer is; it carries no version, so that it changes only when its code does.
payload:
	@mkdir -p bin/payload
	@$(GO) mod download $(KERNEL_MODULE)
	@kernel=$$($(GO) list -m -f '{{.Dir}}' $(KERNEL_MODULE)) && install -m 644 "$$kernel/vmlinuz" bin/payload/vmlinuz
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 $(GO) build $(GOFLAGS_REPEATABLE) -ldflags '$(LDFLAGS_REPEATABLE)' -o bin/payload/agent ./agent/init
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 $(GO) build $(GOFLAGS_REPEATABLE) -ldflags '$(LDFLAGS_REPEATABLE)' -o bin/payload/demo ./agent/demo
	@for f in vmlinuz agent demo; do \
		cmp -s bin/payload/$$f $(PAYLOAD)/$$f || { mv bin/payload/$$f $(PAYLOAD)/$$f && echo "payload: new $$f"; } || exit 1; \
	done

# The shim for images whose system carte's agent does not start; on Linux it is part of the agent.
SHIMS = linux-amd64 linux-arm64 freebsd-amd64 netbsd-amd64 openbsd-amd64
shims:
	@for t in $(SHIMS); do \
		CGO_ENABLED=0 GOOS=$${t%-*} GOARCH=$${t#*-} $(GO) build $(GOFLAGS_REPEATABLE) -ldflags '$(LDFLAGS_REPEATABLE)' -o bin/shims/carte-shim-$$t ./agent/shim/carte-shim || exit 1; \
	done

build: payload
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_REPEATABLE) -ldflags '$(LDFLAGS_REPEATABLE) -X main.version=$(VERSION)' -o carte .
