# make [TARGET] [PRESET=cpu] [CORES=all] [GPUS=1] [PYTHON=python3]
PYTHON ?= python3
PRESET ?= cpu
# cores to use, and how many runs may share the GPUs at the same time
CORES ?= all
GPUS ?= 1

INSTALLED = .venv/installed
IN_VENV = PATH="$(CURDIR)/.venv/bin:$$PATH"
SNAKEMAKE = $(IN_VENV) snakemake --cores $(CORES) --resources gpu=$(GPUS) --config preset=$(PRESET)

.PHONY: help reproduce results datasets doctor test faults lint clean

# A target's help is what follows ## on its line.
help: ## say what make can do
	@echo "make TARGET [PRESET=$(PRESET)] [CORES=$(CORES)] [GPUS=$(GPUS)] [PYTHON=$(PYTHON)]"
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' Makefile | \
		while IFS='|' read -r target text; do printf '  %-10s %s\n' "$$target" "$$text"; done
	@echo
	@echo "presets: smoke (minutes), cpu (a laptop), gpu (one GPU), paper (days). One paper alone:"
	@echo "  .venv/bin/snakemake --cores 2 --config preset=cpu -- cape"
	@echo "The programs behind it: .venv/bin/python -m longrun"

reproduce: $(INSTALLED) ## data, training, verdicts and figures of what configs/config.yaml names
	$(SNAKEMAKE) --rerun-incomplete
	$(SNAKEMAKE) --report results/$(PRESET)/report.html
	@echo "Done. Open results/$(PRESET)/results.html; results/$(PRESET)/report.html adds code and run times."

results: reproduce ## the same, then the preset's section of RESULTS.md
	$(IN_VENV) python -m longrun.tabulate --preset $(PRESET) --output-dir results/$(PRESET) \
		--markdown RESULTS.md

datasets: $(INSTALLED) ## every dataset, and docs/datasets.md
	$(SNAKEMAKE) --rerun-incomplete -- datasets
	$(IN_VENV) python -m longrun.catalogue --preset $(PRESET) --facts results/$(PRESET)/datasets \
		--output docs/datasets.md

doctor: $(INSTALLED) ## versions, devices, disk, Slurm, wandb: what is here, what to mend
	@$(IN_VENV) python -m longrun.doctor

test: lint ## all checks and tests
	$(IN_VENV) OMP_NUM_THREADS=1 pytest --numprocesses logical --maxprocesses 8 --dist loadgroup --durations 10

faults: $(INSTALLED) ## break everything on purpose, ten times as often as test; writes docs/reliability.md
	$(IN_VENV) FAULTS=full OMP_NUM_THREADS=1 pytest tests/faults

lint: $(INSTALLED) ## the checks alone
	$(IN_VENV) ruff check
	$(IN_VENV) ruff format --check
	$(IN_VENV) mypy
	$(IN_VENV) lint-imports
	$(IN_VENV) deptry src
	$(IN_VENV) deptry tests bench --ignore DEP002,DEP004
	$(IN_VENV) snakefmt --check Snakefile workflow
	$(IN_VENV) snakemake --lint

clean: ## delete what PRESET left behind; other presets and the environment stay
	rm -rf $(foreach folder,data results runs logs benchmarks,$(folder)/$(or $(PRESET),$(error PRESET is empty)))

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit("Longrun needs Python 3.11, 3.12 or 3.13; $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12" % v)'
	$(PYTHON) -m venv .venv
	$(IN_VENV) python -m pip install --editable '.[dev]'
	touch $@
