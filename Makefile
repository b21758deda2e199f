# Every target does its own set-up. `make demo` and `make test` need make, git and Python 3.11 or newer.
SHELL := /bin/bash
PYTHON ?= python3
SONG ?=
# For `make train-band`: which recipe, how long this time, how much music there is to learn from.
BAND ?= band
HOURS ?= 2
MUSIC_HOURS ?= 1.5
# Cores that a training uses: one, as those of the weights that ship; two trainings then run side by side.
THREADS ?= 1
# A folder of real multitrack songs for `make bench`.
SONGS ?=
# Which build of PyTorch: empty takes what pip finds, `cpu` asks PyTorch's own index for the CPU build.
TORCH ?=

# By the environment, so that the shell reads nothing into a file's name.
export ISEPARATE_SONG = $(value SONG)

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: demo train-demo train-band ablate-band test test-all check bench docs peers clean help

help:
	@echo "make demo [SONG=path]   separate a song with real weights"
	@echo "make train-demo         train a small network for some minutes on songs made by rule, and score it"
	@echo "make train-band HOURS=2 go on training the drums, bass and other of band-4stems"
	@echo "make ablate-band SONGS=folder   what that training owes to its parts, in hours"
	@echo "make test               all tests but the slow ones; make test-all runs those too"
	@echo "make check              ruff, strict typing, the import contract"
	@echo "make bench              figures against other tools, into bench/results"
	@echo "make docs               the documentation, into site/"

demo: $(VENV)/.run
	@$(BIN)/iseparate demo $(if $(SONG),"$$ISEPARATE_SONG")

train-demo: $(VENV)/.train
	@$(BIN)/iseparate train demo --data synthetic:0.35@1 -o trained/demo

# Songs in trained/$(1)-songs, and without their vocals in trained/$(1)-stripped.
define render_band
	@$(BIN)/iseparate data synthesize --hours $(MUSIC_HOURS) --seed 1 $(2) --song-seconds 60 \
		--format wav --jobs 2 -o trained/$(1)-songs
	@$(BIN)/iseparate data strip synthetic:trained/$(1)-songs -o trained/$(1)-stripped
endef

# Each step leaves alone what is finished; so this goes on where it was, until the recipe's last epoch.
train-band: $(VENV)/.train-band
	$(call render_band,band,--sounds installed)
	@OMP_NUM_THREADS=$(THREADS) $(BIN)/iseparate train $(BAND) --data folder:trained/band-stripped \
		-o trained/$(BAND) --hours $(HOURS) $(if $(wildcard trained/$(BAND)/last.ckpt),--resume)

# What the training owes to its parts: many short ones, hours of them; SONGS is a folder of real songs.
ablate-band: $(VENV)/.train-band
	@test -d "$(SONGS)" || { echo "Say which folder of real songs: make ablate-band SONGS=folder"; exit 2; }
	$(call render_band,band,--sounds installed)
	$(call render_band,own,--sounds own)
	$(call render_band,dry,--sounds installed --dry)
	@$(BIN)/python bench/ablate_band.py --songs "$(SONGS)"

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile

test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --dist loadfile -m "slow or not slow"

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.bench
	$(BIN)/python bench/make_peers.py
	$(BIN)/python bench/end_to_end.py
	$(BIN)/python bench/songs.py $(if $(SONGS),--songs "$(SONGS)")
	$(if $(SONGS),$(BIN)/python bench/band.py --songs "$(SONGS)")
	$(BIN)/python bench/band_speed.py
	$(BIN)/python bench/networks.py
	$(BIN)/python bench/chunking.py $(if $(SONGS),--songs "$(SONGS)")
	$(BIN)/python bench/bss_eval.py $(if $(SONGS),--songs "$(SONGS)")
	$(BIN)/python bench/d3net.py
	$(BIN)/python bench/open_unmix.py
	$(BIN)/python bench/waveform.py
	$(BIN)/python bench/loader.py
	$(BIN)/python bench/synthetic_band.py

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) site build dist

# What a user needs.
$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/.torch
	@echo "Installing iseparate (a minute or two)..."
	@$(PIP) install -c constraints.txt -e .
	@touch $@

# What a developer needs on top of it.
$(VENV)/.dev: $(VENV)/.run
	@echo "Installing the development tools..."
	@$(PIP) install -c constraints.txt -e ".[dev,plot,evaluate,train,augment]"
	@# It asks for an old soxr, which it does not need.
	@$(PIP) install --no-deps log-wmse-audio-quality==0.2.0
	@touch $@

$(VENV)/.train: $(VENV)/.run
	@echo "Installing what training needs..."
	@$(PIP) install -c constraints.txt -e ".[train]"
	@touch $@

# The sounds are Debian's: apt-get install libfluidsynth3 fluid-soundfont-gm musescore-general-soundfont-small
# hydrogen-drumkits; without them the songs are others.
$(VENV)/.train-band: $(VENV)/.train
	@$(PIP) install -c constraints.txt -e ".[train,band]"
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@$(PIP) install -c constraints.txt -e ".[bench]"
	@touch $@

$(VENV)/.docs: $(VENV)/.dev
	@$(PIP) install -c constraints.txt -e ".[docs]"
	@touch $@

$(VENV)/.torch: constraints.txt | $(VENV)/bin/python
	@bash tools/install_torch.sh $(BIN)/python "$(TORCH)"
	@touch $@

$(VENV)/bin/python:
	@bash tools/make_venv.sh "$(PYTHON)" $(VENV)
