# What there is to do. `make` alone lists it; ARGS="…" is passed on, such as `make run ARGS="--listen 127.0.0.1:9000"`.

ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help run test lint fuzz chaos bench bench-gateway bench-messaging fmt clean

help: ## list what there is to do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## install what is missing, build, and serve with a private PostgreSQL and Redis
	@scripts/run.sh $(ARGS)

test: ## install what is missing, and run every test
	@scripts/test.sh $(ARGS)

lint: ## format, clippy, the contract, the migrations
	@scripts/lint.sh

fuzz: ## fuzz the gateway; ARGS=SECONDS, 20 unless given
	@scripts/fuzz.sh $(ARGS)

chaos: ## break servers, Postgres and Redis under load and check messages; ARGS="--seed N --seconds S"
	@scripts/chaos.sh $(ARGS)

bench: ## measure the server, side by side with references
	@scripts/bench.sh $(ARGS)

bench-gateway: ## measure the gateway, side by side with Envoy, fastify, NestJS and others
	@scripts/bench-gateway.sh $(ARGS)

bench-messaging: ## measure messaging, side by side with pgbench, socket.io and ejabberd
	@scripts/bench-messaging.sh $(ARGS)

fmt: ## format the code and the contract
	@scripts/fmt.sh

clean: ## remove what was built (the data in .rialto stays)
	@cargo clean
