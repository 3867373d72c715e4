# Every target is one line; scripts/ and Go hold the rest.
.DEFAULT_GOAL := help
.PHONY: help lab test test-all unit e2e bench conformance soak arm64 lint vuln lane lock verify pictures release act build tools clean
BIN := bin/mllab
# One build mode for mllab and for the images it compiles: they share the cache.
export CGO_ENABLED ?= 0
# As it was written: a pattern's $ is not make's.
override export RUN := $(value RUN)

help: ## show this menu
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

lab: tools build ## install what is missing, build, bring the lab up, prove a canary delivery on it
	$(BIN) up && $(BIN) scenario canary

test: tools ## run the tests, on a real cluster too: each scenario once
	scripts/test lint unit envtest e2e

test-all: tools ## run all tests: every scenario in full, every control, kills
	scripts/test lint unit envtest e2e-all

unit: ## run the tests that need no cluster
	scripts/test unit

e2e: tools ## run the tests on a real cluster; one part on your lab: make e2e RUN=TestLabScenarios/evidence LAB=mllab
	scripts/test e2e

bench: tools ## measure `up` against a plain kind cluster of the same node image
	scripts/test bench

conformance: ## run the conformance tests of the Gateway API and of Knative's networking on the lab that is up (MLLAB_NAME)
	scripts/conformance

soak: tools ## run canary, shadow and progressive with their controls, or SOAK_FILE=my.yaml, 20 times or SOAK_RUNS=n
	scripts/test soak

arm64: ## build images of each kind for arm64, and start them under qemu-user (apt-get install qemu-user)
	scripts/test arm64

lint: ## check format, vet, staticcheck, plain words, and that go.mod is tidy
	scripts/test lint

pictures: build ## take the pictures of the docs in a real browser, from runs on the lab that is up
	scripts/install chromium termtosvg
	termtosvg docs/pictures/canary.svg -g 112x40 -m 200 -c "$(BIN) scenario canary --short" </dev/tty # without a terminal it records nothing
	MLLAB_BIN=$(CURDIR)/$(BIN) PICTURES=$(CURDIR)/docs/pictures go test -C view/browser -count=1 -timeout 15m ./...

vuln: ## look for known vulnerabilities, and say which our code can reach
	scripts/test vuln

lane: ## list what is newer than the pinned versions, what it needs, and what has no fixes any more
	go run ./addons/lane

lock: build ## pin upstream's images by the digests that the registries have
	$(BIN) images lock --write bootstrap/images/upstream.lock

verify: ## check every go.sum against the module cache, and that every go.mod is tidy
	scripts/verify

release: ## build the archives of a release for Linux and macOS, with checksums, into dist/
	scripts/release --snapshot

act: ## run this repository's GitHub action on this machine, with a lab of its own
	scripts/tools/act/run

build: ## build bin/mllab
	scripts/build

tools: ## install what builds and labs need besides Go
	scripts/install

clean: ## remove the lab, and what builds and tests left
	scripts/clean
