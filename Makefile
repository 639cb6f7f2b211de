# From a fresh clone: `make demo` to see it run, `make test` to check it. Both prepare .venv by themselves.
# PYTHON=/path/to/python3.11 chooses the interpreter that .venv is made with (`make clean` first, when there is one).

BIN := .venv/bin
COVERAGE := $(BIN)/coverage report --skip-covered

# The parts without sockets, threads or clocks: every branch of theirs is tested.
PURE := rtc/sdp.py rtc/channels.py rtc/units.py rtc/results.py rtc/reassembly.py rtc/patience.py rtc/liveness.py \
	rtc/sender.py rtc/statistics.py rtc/limits.py rtc/congestion.py rtc/link_rate.py rtc/sctp_counters.py \
	rtc/sctp_streams.py rtc/sctp_wire.py rtc/vp8.py rtc/link.py rtc/link_flow.py rtc/link_settings.py \
	models/tensor.py models/identity.py models/card.py models/task.py models/members.py models/information.py \
	models/calibration.py models/detection/*.py models/codecs/*.py \
	models/graph/index.py models/graph/fixed_shapes.py models/graph/cuts.py models/graph/datapath.py \
	models/graph/enumeration.py models/graph/flow.py models/graph/mincut.py models/graph/memory.py \
	models/graph/macs.py models/graph/prediction.py \
	models/graph/surroundings.py models/graph/folding.py models/graph/candidates.py models/graph/planning.py \
	signaling/addresses.py signaling/problems.py signaling/strictjson.py signaling/messages.py signaling/swap.py \
	signaling/endpoint.py signaling/aisplit.py signaling/negotiation.py signaling/control.py \
	signaling/parametersets.py signaling/auth.py signaling/ranges.py signaling/limits.py signaling/resume.py \
	signaling/entries.py signaling/manifest.py signaling/candidates.py signaling/decision.py \
	signaling/applications.py signaling/procedures.py \
	pipeline/backlog.py pipeline/ledger.py pipeline/summary.py pipeline/settings.py pipeline/offers.py pipeline/limits.py \
	pipeline/reconnect.py pipeline/edges.py pipeline/slot.py pipeline/outcome.py pipeline/modes.py pipeline/events.py pipeline/privacy.py \
	models/ladder.py models/evaluation/*.py pipeline/evaluation/figures.py

empty :=
comma := ,
space := $(empty) $(empty)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench sweep soak fuzz calibrate-test rates lock clip clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## prepare .venv (nothing to do when it is ready)
	@PYTHON='$(PYTHON)' .ci/setup.sh

demo: setup ## run the main job on the bundled clip, both endpoints on this machine
	@$(BIN)/splitrtc demo

test: setup ## the whole test suite, with coverage
	@$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term
	@$(COVERAGE) --include='$(subst $(space),$(comma),$(strip $(PURE)))' --fail-under=100

lint: setup ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup ## let ruff rewrite what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## print the figures that the documentation quotes
	@$(BIN)/python -m benchmarks

sweep: setup ## cut every model after every node and verify it bit for bit; the table in docs/splitting.md
	@$(BIN)/python -m benchmarks.sweep --write

soak: setup ## the tests that take longer than the suite's five minutes
	@$(BIN)/python -m pytest -m soak

fuzz: FUZZ_SEED := $(or $(FUZZ_SEED),$(shell date +%s))
fuzz: setup ## hostile inputs for every parser (FUZZ_INPUTS=1000000), then the property tests (FUZZ_EXAMPLES=20000)
	@echo "fuzz: other inputs each time; 'make fuzz FUZZ_SEED=$(FUZZ_SEED)' has these again"
	@$(BIN)/python -m benchmarks.fuzz --seed $(FUZZ_SEED) $(if $(FUZZ_INPUTS),--inputs $(FUZZ_INPUTS))
	@HYPOTHESIS_PROFILE=fuzz FUZZ_EXAMPLES='$(FUZZ_EXAMPLES)' \
		$(BIN)/python -m pytest -m 'fuzz or hypothesis' --hypothesis-seed=$(FUZZ_SEED)

calibrate-test: setup ## the tests of `splitrtc calibrate` that need torch (installs it; PIP_INDEX_URL can name its CPU builds)
	@$(BIN)/python -m pip install --quiet 'torch>=2.4'
	@$(BIN)/python -m pytest -m torch

rates: setup ## bytes against accuracy: STATIC=clip [SEGMENTS=...] MOVING=clip IMAGES=folder ANNOTATIONS=file (WRITE=1: renew docs and ladder)
	@$(BIN)/python -m benchmarks.rates $(if $(STATIC),--static '$(STATIC)') $(if $(SEGMENTS),--segments '$(SEGMENTS)') \
		$(if $(MOVING),--moving '$(MOVING)') $(if $(IMAGES),--images '$(IMAGES)') \
		$(if $(ANNOTATIONS),--annotations '$(ANNOTATIONS)') $(if $(WRITE),--write)

lock: ## write requirements.lock again, from pyproject.toml (needs uv)
	@.ci/lock.sh

clip: setup ## make the bundled clip again (installs scikit-image into .venv)
	@$(BIN)/python -m pip install --quiet scikit-image
	@$(BIN)/python -m pipeline.clip.make_clip

clean: ## remove .venv and everything that was made
	rm -rf .venv build dist *.egg-info .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis
