# The commands a person types. `make` alone lists them.
#
# Needs GNU make, a POSIX shell and Python 3.11 or newer with venv (PYTHON=… chooses one). Everything else is installed below the
# repository, in .tools/, .venv/ and tests/e2e/typescript/node_modules/, on the first use of a target that needs it. `make test`
# leaves out the tests of programs that are not there (bash, chromium, curl, fish, git, Prometheus, promtool, zsh, Node.js 20 or
# newer with npm), and its last line says which those are. ALL_TESTS=1 builds those of Prometheus, and makes it fail if any is left out.

SHELL := /bin/sh
UV_VERSION := 0.13.8
VENV := .venv
BIN := $(VENV)/bin
# The uv on PATH, or a pinned one in .tools/.
UV := $(shell command -v uv || echo .tools/bin/uv)
# The first interpreter that starts and is new enough; pyenv's shims exist for versions that do not start.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	if $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then command -v $$p; break; fi; done)
# The locks are always written by the pinned uv: versions word the same lock differently. Each lock begins with its command,
# which Renovate reads and runs: hence no path of this machine in it, and `=` before every value.
LOCK := $(CURDIR)/.tools/bin/uv pip compile --quiet --universal --python-version=3.11 --generate-hashes
LOCKED := requirements pyproject.toml proxy/pyproject.toml operator/pyproject.toml kubectl-oauthaccount/pyproject.toml
# A client of the end-to-end tests. To update it: npm update --prefix tests/e2e/typescript
TYPESCRIPT := tests/e2e/typescript
# The two images. BASE is what both are built on.
ENGINE ?= $(shell for p in docker podman buildah; do command -v $$p >/dev/null && { echo $$p; break; }; done)
BASE ?= python:3.13-slim
TAG ?= dev
IMAGE_PREFIX ?=
SOURCE ?=
# Of `make e2e`: what brings an image to the cluster's nodes, and a prefix for what talks to the cluster.
LOAD ?=
INSIDE ?=
# Of a cluster that `make e2e` makes with kind: its node image, if not the newest that kind knows.
NODE_IMAGE ?=
ARGS ?=
N ?= 200
# What runs here talks to itself on this machine. A proxy to the internet, if there is one, is not on the way.
NO_PROXY := $(or $(no_proxy),$(NO_PROXY)),localhost,127.0.0.1,::1
no_proxy := $(NO_PROXY)
export NO_PROXY no_proxy

.PHONY: help setup demo test e2e e2e-argocd crash-trials trust check lint types locks audit sbom reproducible format lock bench bench-operator bench-scale picture dashboard-picture images test-images clean

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.installed ## Install everything into .venv (every other command does this by itself)

demo: setup ## Run the whole system on this machine and show it work (ARGS=--once ends by itself)
	@$(BIN)/python -m tests.e2e.demo $(ARGS)

test: setup $(TYPESCRIPT)/node_modules/.installed ## Run all tests (ARGS="-k name" for some)
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

e2e: setup ## Run everything on a cluster: KUBECONFIG's, or one made with kind (ARGS=--help; LOAD=… brings images to its nodes)
	@$(BIN)/python -m tests.e2e.cluster --engine "$(ENGINE)" --base $(BASE) --uv-version $(UV_VERSION) --load "$(LOAD)" --inside "$(INSIDE)" --node-image "$(NODE_IMAGE)" $(ARGS)

e2e-argocd: setup ## The same from a Git repository, by the ArgoCD of KUBECONFIG's cluster (docs/gitops.md)
	@$(BIN)/python -m tests.e2e.cluster --engine "$(ENGINE)" --base $(BASE) --uv-version $(UV_VERSION) --load "$(LOAD)" --inside "$(INSIDE)" --node-image "$(NODE_IMAGE)" $(ARGS) tests/e2e/argocd

crash-trials: setup ## Kill the operator around token rotations, in N trials (N=10000; ARGS=--help)
	@$(BIN)/python -m tests.test_operator.crash_trials --trials $(N) $(ARGS)

trust: setup ## See whether the promises of docs/reliability.md hold: three quarters of an hour (ARGS="--short", "--only NAME", --help)
	@$(BIN)/python -m tests.trust $(ARGS)

check: lint types locks ## Formatting, lint, types, and whether the locks are up to date

lint: setup .tools/bin/actionlint ## Formatting, lint, layers and declared dependencies of the code, lint of the scripts in .ci/ and of the workflow
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	@for part in proxy operator kubectl-oauthaccount; do $(BIN)/deptry --no-ansi --config $$part/pyproject.toml $$part/src 2>&1 || exit; done
	$(BIN)/shellcheck .ci/*
	.tools/bin/actionlint -shellcheck=$(BIN)/shellcheck
	$(BIN)/zizmor --offline --quiet .github

types: setup ## Types
	$(BIN)/mypy

locks: .tools/bin/uv ## Whether the locks are up to date
	@rm -rf .tools/lock && mkdir -p .tools/lock && tar -c $(LOCKED) | tar -xC .tools/lock
	@$(MAKE) --no-print-directory lock-in DIR=.tools/lock
	@diff -ru requirements .tools/lock/requirements || { echo "requirements/ is not what pyproject.toml asks for: run 'make lock'" >&2; exit 1; }
	@echo "requirements/ is up to date"

audit: setup ## Whether anything in the locks is known to be vulnerable (asks PyPI)
	$(BIN)/pip-audit --strict --progress-spinner=off --disable-pip --require-hashes -r requirements/dev.txt $(ARGS)

sbom: .tools/sbom/.installed $(UV) ## Write which Python packages are in each image, with licences, to dist/*.cdx.json (CycloneDX)
	@for program in proxy operator; do \
		$(UV) venv --quiet --clear --python $(PYTHON) .tools/image-$$program && \
		$(UV) pip install --quiet --python .tools/image-$$program/bin/python --require-hashes -r requirements/$$program.txt && \
		$(UV) pip install --quiet --python .tools/image-$$program/bin/python --no-deps ./$$program && \
		mkdir -p dist && .tools/sbom/bin/cyclonedx-py environment --output-reproducible \
			--pyproject $$program/pyproject.toml --output-file dist/oauth-pool-$$program.cdx.json .tools/image-$$program || exit; \
	done
	@ls dist/*.cdx.json

reproducible: .tools/bin/uv ## Build each wheel twice, and compare: the same source gives the same bytes
	@rm -rf .tools/wheels && for turn in 1 2; do for part in proxy operator kubectl-oauthaccount; do \
		rm -rf .tools/source && mkdir -p .tools/source && git archive HEAD $$part | tar -xC .tools/source && \
		SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) .tools/bin/uv build --quiet --wheel --out-dir .tools/wheels/$$turn .tools/source/$$part || exit; \
	done; sleep 1; done
	@cd .tools/wheels/1 && sha256sum *.whl | tee ../sums && cd ../2 && sha256sum --check --quiet ../sums && echo "both times the same"

format: setup ## Format the code and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: .tools/bin/uv ## Write the locks in requirements/ anew (ARGS=--upgrade for newer versions)
	@$(MAKE) --no-print-directory lock-in DIR=.

# dev.txt decides the versions; the locks of the two images and of the plugin are subsets of it, so that what is tested is
# what is shipped.
.PHONY: lock-in
lock-in: .tools/bin/uv
	cd $(DIR) && $(LOCK) $(ARGS) proxy/pyproject.toml operator/pyproject.toml kubectl-oauthaccount/pyproject.toml --group=pyproject.toml:dev --output-file=requirements/dev.txt
	cd $(DIR) && $(LOCK) --constraints=requirements/dev.txt proxy/pyproject.toml --output-file=requirements/proxy.txt
	cd $(DIR) && $(LOCK) --constraints=requirements/dev.txt operator/pyproject.toml --output-file=requirements/operator.txt
	cd $(DIR) && $(LOCK) --constraints=requirements/dev.txt kubectl-oauthaccount/pyproject.toml --output-file=requirements/plugin.txt

bench: setup ## Measure the proxy beside nginx and a direct connection (ARGS=--help; docs/benchmarks.md)
	@$(BIN)/python -m tests.bench.run --engine "$(ENGINE)" --base $(BASE) $(ARGS)

images: ## Build both images (ENGINE=docker, IMAGE_PREFIX=registry.example.com/team/, TAG=dev, BASE=python:3.13-slim)
	@for program in proxy operator; do \
		$(ENGINE) build -f Dockerfile.$$program -t $(IMAGE_PREFIX)oauth-pool-$$program:$(TAG) --build-arg BASE=$(BASE) \
			--build-arg UV_VERSION=$(UV_VERSION) --build-arg SOURCE=$(SOURCE) \
			--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null) . || exit; \
	done

test-images: setup ## Look into the images that `make images` built, and run them
	$(BIN)/python -m pytest tests/images --engine $(ENGINE) --base-image $(BASE) \
		--proxy-image $(IMAGE_PREFIX)oauth-pool-proxy:$(TAG) --operator-image $(IMAGE_PREFIX)oauth-pool-operator:$(TAG) $(ARGS)

bench-operator: setup ## Measure the operator with 2,000 accounts (ARGS=--help; docs/benchmarks.md)
	@$(BIN)/python -m tests.bench.operator_bench $(ARGS)

bench-scale: setup ## Measure what grows with accounts and proxies (ARGS=--help; docs/scale.md)
	@$(BIN)/python -m tests.bench.scale $(ARGS)

picture: setup ## Draw docs/kubectl-top.svg anew, by the code that draws it on a terminal
	@$(BIN)/python -m tests.test_kubectl_plugin.picture

dashboard-picture: setup ## Draw docs/dashboard.png anew, of what a real Prometheus sees of a pool under load (ARGS=--help)
	@$(BIN)/python -m tests.test_monitoring.picture $(ARGS)

# An environment of its own for a dependency group that .venv is spared; the benchmark asks for it.
.tools/%/.installed: $(UV) pyproject.toml
	@$(UV) venv --quiet --clear --python $(PYTHON) .tools/$*
	@$(UV) pip install --quiet --python .tools/$*/bin/python --group pyproject.toml:$*
	@touch $@

clean: ## Remove everything that these commands made below the repository
	rm -rf .venv .tools .bench .demo $(TYPESCRIPT)/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Linters of Python, shell and security come with .venv; this one of workflows is a Go program.
.tools/bin/actionlint: tests/support/actionlint/go.mod tests/support/actionlint/go.sum $(VENV)/.installed
	@echo "building actionlint in .tools/"
	@mkdir -p $(@D)
	@go=$$($(BIN)/python -c 'from tests.support.control_plane.binaries import go_toolchain; print(go_toolchain())') && \
		cd $(<D) && GOTOOLCHAIN=local "$$go" build -o $(CURDIR)/$@ github.com/rhysd/actionlint/cmd/actionlint

.tools/bin/uv:
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or newer with venv (PYTHON=… names one)" >&2; exit 1; }
	@echo "installing uv $(UV_VERSION) into .tools/"
	@$(PYTHON) -m venv .tools
	@.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.installed: $(UV) requirements/dev.txt proxy/pyproject.toml operator/pyproject.toml kubectl-oauthaccount/pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11 or newer with venv (PYTHON=… names one)" >&2; exit 1; }
	@echo "installing into $(VENV)/ with $$($(PYTHON) --version)"
	@$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)
	@$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps -e proxy -e operator -e kubectl-oauthaccount
	@touch $@

# Without npm nothing is installed, and the tests that need it are left out.
$(TYPESCRIPT)/node_modules/.installed: $(TYPESCRIPT)/package.json $(TYPESCRIPT)/package-lock.json
	@if command -v npm >/dev/null; then \
		echo "installing into $(@D)/ with npm $$(npm --version)" && \
		npm ci --prefix $(TYPESCRIPT) --ignore-scripts --loglevel=error >/dev/null && touch $@; \
	fi
