# make reproduce [PRESET=cpu] [CORES=all] [GPUS=1] [PYTHON=python3]
PYTHON ?= python3
PRESET ?= cpu
# cores to use, and how many runs may share the GPUs at the same time
CORES ?= all
GPUS ?= 1

INSTALLED = .venv/installed
IN_VENV = PATH="$(CURDIR)/.venv/bin:$$PATH"
SNAKEMAKE = $(IN_VENV) snakemake --cores $(CORES) --resources gpu=$(GPUS) --config preset=$(PRESET)

.PHONY: reproduce results datasets test lint clean

reproduce: $(INSTALLED)
	$(SNAKEMAKE) --rerun-incomplete
	$(SNAKEMAKE) --report results/$(PRESET)/report.html
	@echo "Done. Open results/$(PRESET)/results.html; results/$(PRESET)/report.html adds code and run times."

results: reproduce
	$(IN_VENV) python -m longrun.tabulate --preset $(PRESET) --output-dir results/$(PRESET) \
		--markdown RESULTS.md

# every dataset of the preset, and the page that lists them
datasets: $(INSTALLED)
	$(SNAKEMAKE) --rerun-incomplete -- datasets
	$(IN_VENV) python -m longrun.catalogue --preset $(PRESET) --facts results/$(PRESET)/datasets \
		--output docs/datasets.md

test: lint
	$(IN_VENV) OMP_NUM_THREADS=1 pytest --numprocesses logical --maxprocesses 8 --dist loadgroup --durations 10

lint: $(INSTALLED)
	$(IN_VENV) ruff check
	$(IN_VENV) ruff format --check
	$(IN_VENV) mypy
	$(IN_VENV) lint-imports
	$(IN_VENV) snakefmt --check Snakefile workflow
	$(IN_VENV) snakemake --lint

# what PRESET left behind; other presets and the environment stay
clean:
	rm -rf $(foreach folder,data results runs logs benchmarks,$(folder)/$(or $(PRESET),$(error PRESET is empty)))

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("Longrun needs Python 3.11, 3.12 or 3.13; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
	$(IN_VENV) python -m pip install --editable '.[dev]'
	touch $@
