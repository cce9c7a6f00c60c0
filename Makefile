# Every module of the repository; the root is the first.
NESTED   := bench cloudevents crash examples/custom-store examples/postgres-outbox hostile interop pgxstore sqlitestore
MODULES  := . $(NESTED)
FUZZTIME := 30s
REQUIRED := github.com/cenkalti/backoff/v4 github.com/google/uuid github.com/stretchr/testify
STATICCHECK := $(CURDIR)/.bin/staticcheck

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: test
test: deps ## run all tests of all modules
	go test -timeout 15m work
	@for m in $(NESTED); do (cd $$m && GOWORK=off go build -o /dev/null ./... && GOWORK=off go vet ./...) || exit 1; done

.PHONY: race
race: ## run all tests three times, shuffled, with the race detector
	go test -race -shuffle=on -count=3 ./...
	go test -race -short -timeout 15m -shuffle=on $(NESTED:%=./%/...)

.PHONY: cover
cover: ## show the statement coverage of the root, which must not be below 90 %
	@mkdir -p .bin
	go test -coverprofile=.bin/cover.out .
	@go tool cover -func=.bin/cover.out | awk '/^total:/ { print "coverage:", $$3; exit $$3 + 0 < 90 }'

.PHONY: deps
deps: ## check that the root needs its three packages and nothing else
	@mkdir -p .bin
	@GOWORK=off go list -m -f '{{if not (or .Main .Indirect)}}{{.Path}}{{end}}' all | sort > .bin/deps
	@echo $(REQUIRED) | tr ' ' '\n' | sort | diff - .bin/deps
	@go list -deps . ./examples/... > .bin/packages
	@! grep -E '^(testing|github.com/stretchr/testify)(/|$$)' .bin/packages \
		|| { echo 'code that is no test imports the packages above'; exit 1; }

.PHONY: lint
lint: $(STATICCHECK) ## run gofmt, go vet, go fix and staticcheck, and check the go.mod files
	@test -z "$$(gofmt -l .)" || { gofmt -l .; exit 1; }
	go vet work
	@for m in $(MODULES); do (cd $$m && go fix -diff ./... && $(STATICCHECK) ./... && GOWORK=off go mod tidy -diff) || exit 1; done

$(STATICCHECK): tools/go.mod
	GOWORK=off go build -C tools -o $(CURDIR)/.bin/ honnef.co/go/tools/cmd/staticcheck

.PHONY: vuln
vuln: ## look for known vulnerabilities, where their database can be reached
	GOWORK=off go build -C tools -o $(CURDIR)/.bin/ golang.org/x/vuln/cmd/govulncheck
	.bin/govulncheck ./...

# Not looked at: errors of calls that return none, as hash.Hash.Write (G104); pauses,
# turns and plans of tests, which are drawn by math/rand (G404); and what starts
# programs, for tests and examples.
.PHONY: gosec
gosec: ## look for what may be insecure, in all modules
	GOWORK=off go build -C tools -o $(CURDIR)/.bin/ github.com/securego/gosec/v2/cmd/gosec
	.bin/gosec -quiet -exclude=G104,G404 -exclude-dir=crash -exclude-dir=examples -exclude-dir=internal/pgserver ./...

# Minimizing gets little time: each input that is new, perhaps by chance, would cost
# up to a minute. Go before 1.27 may call it a failure that the time is over
# (go.dev/issue/75804).
.PHONY: fuzz
fuzz: ## run each fuzz target of all modules for FUZZTIME
	@mkdir -p .bin
	@grep -roE --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' . | sed 's|/[^/]*:func | |' | sort > .bin/fuzz
	@test -s .bin/fuzz || { echo 'no fuzz targets'; exit 1; }
	@failed=; while read -r dir f; do \
		go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 100x "$$dir" </dev/null >.bin/fuzz-log 2>&1 \
			|| { grep -qx '    context deadline exceeded' .bin/fuzz-log && ! grep -qE 'Failing input|seed#' .bin/fuzz-log; } \
			|| { cat .bin/fuzz-log; failed="$$failed $$dir/$$f"; }; \
		echo "$$dir/$$f $$(grep '^fuzz: elapsed' .bin/fuzz-log | tail -n 1)"; \
	done < .bin/fuzz; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

.PHONY: bench
bench: ## measure all stores beside a bare http.Client loop and River, in about 10 minutes
	go run ./bench

.PHONY: bench-quick
bench-quick: ## measure roughly, in about a minute
	go run ./bench -quick

.PHONY: crash
crash: ## kill workers and servers at random, and count what was lost, out of order, too early or too many
	go run ./crash -store postgres
	go run ./crash -store sqlite
	@for s in rate pause breaker order; do for db in postgres sqlite; do go run ./crash -scenario $$s -store $$db || exit 1; done; done

.PHONY: examples
examples: ## run the examples
	go run ./examples/quickstart
	go run ./examples/github-to-slack -demo
	go run ./examples/chat
	go run ./examples/partitioned
	go run ./examples/custom-store
	go run ./examples/postgres-outbox
