# Every target runs on a machine with Go and Postgres binaries, or Docker; nothing has to be started first.

GO       ?= go
FUZZTIME ?= 30s
SEED     ?= 1
DURATION ?= 1h

.DEFAULT_GOAL := help
.PHONY: brokers torture soak merges mutants help check fmt-check vet staticcheck test race lint demo bench fuzz cover build deploy browser apiserver image vuln

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

check: fmt-check vet staticcheck race ## what has to pass before a commit: gofmt, vet, staticcheck, tests with the race detector

fmt-check: ## fail if a file is not formatted
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "run gofmt -w on:"; echo "$$unformatted"; exit 1; fi

vet: ## go vet, with and without the failpoints of the crash tests
	$(GO) vet ./...
	$(GO) vet -tags failpoint ./...

staticcheck: ## staticcheck, in the version of go.mod
	$(GO) tool staticcheck ./...

test: ## all tests
	$(GO) test ./...

brokers: ## tests of the broker adapters, against brokers that it installs and starts (Debian, as root)
	@dir=$$(mktemp -d); trap '.ci/brokers.sh down "$$dir"; rm -rf "$$dir"' EXIT; \
		exports=$$(.ci/brokers.sh up "$$dir" kafka amqp redis) && eval "$$exports" && \
		PGSAGAZ_TEST_BROKERS=required $(GO) test -count=1 ./outbox/... ./inbox/... ./internal/...

torture: ## five minutes of all the harm there is, on a Postgres of its own; SEED=1 repeats the same
	$(GO) test ./integration -count=1 -v -timeout 30m -run TestTorture -torture 5m -transfers 20000 -every 900ms -seed $(SEED)

soak: ## the same for DURATION (1h), at half the load, with some harm every 30 s and snapshots that are held: nothing may grow
	$(GO) test ./integration -count=1 -v -timeout 0 -run TestTorture -torture $(DURATION) -soak -rate 30 -every 30s -seed $(SEED)

merges: ## the races, statement by statement, in all orders; hours
	$(GO) test ./integration/interleave -count=1 -v -timeout 0 -all

mutants: ## plant each known bug, and see that the tests find it; the table goes into mutants.md
	$(GO) test -tags failpoint ./integration/mutants -count=1 -v -timeout 60m -mutants all -table "$(CURDIR)/mutants.md"

race: ## all tests with the race detector
	$(GO) test -race -timeout 20m ./...

lint: ## golangci-lint, which has to be installed, with .golangci.yml
	golangci-lint run

vuln: ## known vulnerabilities of what this is built from; it says so if their database is out of reach
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

demo: ## the order saga, end to end, on a Postgres of its own
	$(GO) run ./cmd/pgsagaz demo

bench: ## sagas and wake-ups, measured against a floor in the same run
	$(GO) run ./cmd/pgsagaz bench saga
	$(GO) run ./cmd/pgsagaz bench wake
	$(GO) run ./cmd/pgsagaz bench inbox

fuzz: ## each fuzz target for FUZZTIME (30s)
	@set -e; for file in $$(grep -rlE '^func Fuzz' --include='*_test.go' .); do \
		for target in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$$file"); do \
			echo "$$(dirname "$$file") $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")"; \
		done; \
	done

cover: ## coverage of all tests over all packages: coverage.out, what is exported and never called, and the total
	$(GO) test -coverpkg ./... -coverprofile coverage.out ./...
	@echo "exported, and never called by a test:"
	@$(GO) tool cover -func coverage.out | awk '$$2 ~ /^[A-Z]/ && $$3 == "0.0%" { print "  " $$1 " " $$2 }'
	@$(GO) tool cover -func coverage.out | tail -1

deploy: ## tests of the manifests and the compose file, which are a module of their own
	cd integration/deploy && $(GO) vet ./... && $(GO) test ./...

browser: ## a walk through the console with a Chromium, which has to be installed; axe-core comes from npm
	cd integration/browser && npm install --no-audit --no-fund --no-package-lock && $(GO) test -count=1 -timeout 10m ./...

apiserver: ## k8s/ applied to a real Kubernetes API server, which it builds first: ten minutes (Debian, as root)
	@dir=$$(mktemp -d); trap '.ci/kube-apiserver.sh down "$$dir"; rm -rf "$$dir"' EXIT; \
		exports=$$(.ci/kube-apiserver.sh up "$$dir") && eval "$$exports" && \
		cd integration/deploy && $(GO) test -count=1 -v -timeout 10m -run APIServer ./...

image: ## the container image pgsagaz/pgsagaz:dev, with Docker
	docker build --tag pgsagaz/pgsagaz:dev --build-arg VERSION="$$(git describe --tags --always)" --build-arg COMMIT="$$(git rev-parse HEAD)" .

build: ## bin/pgsagaz
	$(GO) build -trimpath -o bin/pgsagaz ./cmd/pgsagaz
