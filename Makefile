# `make smoke`: the whole pipeline on synthetic videos and tiny models. `make test`: lint, types, tests. `make bench`: measured claims.
PYTHON ?= python3
VLM ?= tiny-qwen2.5-vl
RUN := runs/smoke$(if $(filter-out tiny-qwen2.5-vl,$(VLM)),-$(VLM))

.PHONY: smoke test bench

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --constraint constraints.txt torch
	.venv/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

runs/data/scenes/set.json: | .venv/.ready
	.venv/bin/motion-enhancer synthesize runs/data/scenes --preset scenes --count 8 --seed 1

runs/data/bench/set.json: | .venv/.ready
	.venv/bin/motion-enhancer synthesize runs/data/bench --preset bench --count 12 --seed 2

smoke: .venv/.ready runs/data/scenes/set.json runs/data/bench/set.json
	.venv/bin/motion-enhancer run motion_enhancer --out $(RUN) --arguments components/orchestration/smoke.json \
		--set vlm=$(VLM) --set source=$(CURDIR)/runs/data/scenes --set 'benchmarks=["motionbench=$(CURDIR)/runs/data/bench"]'

test: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/pytest -q

bench: .venv/.ready
	.venv/bin/python -m bench
