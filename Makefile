# carte: `make build` makes ./carte. `make payload` first puts the agent and its
# kernel where go:embed finds them; a plain `go build` works without.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# The same sources give the same bytes: no paths, no build ids, no C compiler.
GOFLAGS_REPEATABLE = -trimpath -buildvcs=false
LDFLAGS_REPEATABLE = -s -w -buildid=
KERNEL_MODULE      = github.com/gokrazy/kernel.amd64
PAYLOAD            = netboot/payload/bin

.PHONY: payload build

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

build: payload
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_REPEATABLE) -ldflags '$(LDFLAGS_REPEATABLE) -X main.version=$(VERSION)' -o carte .
