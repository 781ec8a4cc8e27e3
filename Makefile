# SPDX-License-Identifier: Apache-2.0
# make demo   builds everything and shows it on this machine (CHECK=1: ends with a verdict)
# make test   everything that CI checks
# The rest is for contributors; `make help` lists it.

export GOEXPERIMENT := jsonv2
export GOFLAGS := -buildvcs=auto
BIN := build/bin
PROGRAMS := node mailbox tornet demo
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.1
FUZZTIME ?= 30s
SEEDS ?= 1

.PHONY: build demo test testtools quick fmt vet lint race plain e2e clients quickclients fuzz bench full leakage figures soak shortsoak schedules tools help clean

build: ## the programs, in build/bin
	@mkdir -p $(BIN)
	go build -trimpath -o $(BIN)/ $(addprefix ./cmd/,$(PROGRAMS))

demo: tools build ## three homeservers, four mailboxes, a private Tor network; CHECK=1 for a verdict
	$(BIN)/demo $(if $(CHECK),--check)

test: tools testtools fmt vet lint race plain shortsoak e2e quickclients ## what CI runs

quick: fmt vet ## the tests that need no Tor, without the race detector
	go test -short ./...

fmt:
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt these:"; echo "$$out"; exit 1; }

vet:
	go vet ./...

lint: build/tools/staticcheck
	build/tools/staticcheck ./...

build/tools/staticcheck:
	GOBIN=$(CURDIR)/build/tools GOFLAGS= go install $(STATICCHECK)

race: ## all tests with the race detector
	go test -race -timeout 40m ./replicate ./internal/e2e ./room ./... # the longest first, on a processor of its own

plain: ## what is about times and much cryptography, without the race detector
	go test -timeout 20m ./replicate ./internal/e2e

e2e: build ## the demo's whole conversation, with kills, as a test
	$(BIN)/demo --check --dir build/e2e

clients: build ## real Matrix clients against a real node (npm; Chromium and matrix-nio if they are there)
	scripts/clients

quickclients: build ## those of them that CI runs
	scripts/clients quick

fuzz: ## every fuzz target for FUZZTIME
	scripts/fuzz $(FUZZTIME)

bench: ## the figures that the closing notes state
	go test -run '^$$' -bench . -benchmem ./...

full: tools ## what is too long for CI: 100,000 boxes, long random runs
	TARN_FULL=1 go test -timeout 120m ./mailbox/... ./replicate/... ./room/... ./dag/... ./internal/leakage ./internal/load

leakage: ## what observers learn: the table in docs/THREATS.md, build/leakage.json; half an hour; NODES, DAYS, SEEDS
	TARN_LEAKAGE=$(CURDIR) TARN_LEAKAGE_NODES=$(or $(NODES),100) TARN_LEAKAGE_DAYS=$(or $(DAYS),0.5) TARN_LEAKAGE_SEEDS=$(SEEDS) \
		go test -count 1 -timeout 24h -run '^TestReport$$' ./internal/leakage

figures: ## what the node costs, beside the bare machine: the table in docs/operating.md, build/figures.json; RUNS
	TARN_FIGURES=$(CURDIR) TARN_FIGURES_RUNS=$(or $(RUNS),1) go test -count 1 -timeout 6h -run '^TestFigures(OfRooms)?$$' ./internal/load

soak: ## weeks of 50 nodes with faults, checked at every node: build/soak.json; NODES, ROOMS, DAYS, SEED, FRAME (s), TALK
	TARN_SOAK=$(CURDIR) TARN_SOAK_NODES=$(NODES) TARN_SOAK_ROOMS=$(ROOMS) TARN_SOAK_DAYS=$(DAYS) TARN_SOAK_SEED=$(SEED) TARN_SOAK_FRAME=$(FRAME) TARN_SOAK_TALK=$(TALK) \
		go test -count 1 -timeout 24h -run '^TestSoak$$' -v ./internal/soak

shortsoak: ## the form of it that CI runs; on one processor a seed is nearly the same run again
	GOMAXPROCS=1 $(MAKE) soak DAYS=2 NODES=10

schedules: ## random failures of everything, PLAYS of them (100,000 takes some hours)
	TARN_SCHEDULES=$(or $(PLAYS),100000) go test -timeout 48h -run TestRandomSchedules -v ./replicate

tools: ## tor, from the system's packages
	@scripts/need tor

testtools: ## what tests want beside: strace watches for leaks, the race detector needs a C compiler
	@scripts/need strace gcc

clean:
	rm -rf build

help:
	@grep -E '^[a-z0-9]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 12
