# `make smoke`: the whole pipeline on synthetic videos and small models. `make test`: lint (ruff, mypy, layers), then the
# tests. `make test-shipped`: the numeric tests on what the CUDA image runs (Python 3.10, its lock, its torch), on a CPU.
# `make test-recipes`: the blocks of README and docs, run whole.
# `make test-engine`: all cases of the training engine, of which `make test` takes rows that hold every pair of factors.
# `make bench…`: measured claims, of the cost, of the prior (`bench-prior`, `bench-prior-full`), of the alignment
# (`bench-align`, `bench-align-full`) and of what the steps cost as a data set grows (`bench-scale`).
# `make cluster-smoke HOST=… STORE=… SOURCE=… BENCHMARKS=…`: the acceptance test of a cluster (docs/cluster.md).
PYTHON ?= python3
# VDM=tiny-random, VLM=tiny-qwen2.5-vl: models of random weights, which show the plumbing alone
VDM ?= scenes-cogvideox
VLM ?= scenes-qwen2.5-vl
RUN := runs/smoke$(if $(filter-out scenes-cogvideox,$(VDM)),-$(VDM))$(if $(filter-out scenes-qwen2.5-vl,$(VLM)),-$(VLM))

.PHONY: smoke lint test test-recipes test-engine test-shipped cluster-smoke
.PHONY: bench bench-prior bench-prior-full bench-align bench-align-full bench-scale

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --no-compile --constraint constraints.txt torch
	.venv/bin/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	# on all cores, where pip takes one; what is of a later Python's syntax stays as it is, as with pip
	.venv/bin/python -m compileall -qq -j 0 .venv/lib || true
	touch $@

runs/data/scenes/set.json: | .venv/.ready
	.venv/bin/motion-enhancer synthesize runs/data/scenes --preset scenes --count 8 --seed 1

runs/data/bench/set.json: | .venv/.ready
	.venv/bin/motion-enhancer synthesize runs/data/bench --preset bench --count 48 --seed 2

smoke: .venv/.ready runs/data/scenes/set.json runs/data/bench/set.json
	.venv/bin/motion-enhancer run motion_enhancer --out $(RUN) --arguments components/cli/smoke.json \
		--set vdm=$(VDM:tiny-random=tiny-cogvideox) --set vlm=$(VLM) --set source=$(CURDIR)/runs/data/scenes --set 'benchmarks=["motionbench=$(CURDIR)/runs/data/bench"]'

# BENCHMARKS: PROTOCOL=DIR, several with spaces between; SERVICE_ACCOUNT, IMAGE, NAMESPACE and DISTURB=1 as wanted
cluster-smoke: .venv/.ready
	.venv/bin/motion-enhancer cluster-smoke $(if $(HOST),--host '$(HOST)') --store '$(STORE)' --source '$(SOURCE)' \
		$(foreach benchmark,$(BENCHMARKS),--benchmark '$(benchmark)') $(if $(IMAGE),--image '$(IMAGE)') \
		$(if $(NAMESPACE),--namespace '$(NAMESPACE)') $(if $(filter-out 0,$(DISTURB)),--disturb) \
		$(if $(SERVICE_ACCOUNT),--service-account '$(SERVICE_ACCOUNT)')

lint: .venv/.ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	# numpy's stubs for Python 3.10 give the parameters of ndarray no defaults
	.venv/bin/mypy $$(.venv/bin/python -c 'import sys; print("--allow-any-generics" * (sys.version_info < (3, 11)))')
	.venv/bin/lint-imports

test: lint
	.venv/bin/pytest -q --numprocesses auto --dist loadfile --no-loadscope-reorder

.venv-shipped/.ready: .ci/shipped docker/requirements-gpu.txt docker/images.json constraints.txt
	.ci/shipped .venv-shipped
	touch $@

test-recipes: .venv/.ready
	.venv/bin/pytest -q -m recipes --numprocesses auto tests/test_docs.py tests/cli/test_run_folder.py

test-engine: .venv/.ready
	.venv/bin/pytest -q -m engine tests/sft/test_engine.py

test-shipped: .venv-shipped/.ready
	.venv-shipped/bin/pytest -q --numprocesses auto --dist loadfile --no-loadscope-reorder tests/test_imports.py \
		tests/attention_capture tests/benchmark_eval tests/benchmarks tests/dataset_import tests/ddim_inversion \
		tests/leakage_check tests/media tests/models/vlm tests/quality tests/sft tests/vlm_attention \
		tests/synthetic/vdm/test_shipped.py tests/synthetic/vlm/test_shipped.py

bench: .venv/.ready
	.venv/bin/python -m bench

bench-prior bench-align bench-scale: .venv/.ready
	.venv/bin/python -m bench.$(@:bench-%=%)

bench-prior-full bench-align-full: .venv/.ready
	.venv/bin/python -m bench.$(@:bench-%-full=%) --full
