# make [TARGET] [PRESET=cpu] [PAPERS="cape tsm"] [CORES=all] [GPUS=1] [PYTHON=python3]
PYTHON ?= python3
PRESET ?= cpu
# cores to use, and how many runs may share the GPUs at the same time
CORES ?= all
GPUS ?= 1

# At preset smoke Snakemake makes one experiment for each task, and longrun.smoke all others, in one
# process: that is enough to see that the graph works, and takes a fraction of the time.
ONE_OF_EACH = causal_pinn learning_to_relax lsm noda pde_refiner rectified_flow
OTHERS = $(and $(filter smoke,$(PRESET)),$(if $(PAPERS),,yes))
NAMED = $(if $(OTHERS),$(ONE_OF_EACH),$(PAPERS))
comma = ,
list = [$(subst $() $(),$(comma),$(strip $(1)))]
CHOICE = $(if $(NAMED),'experiments=$(if $(filter all,$(NAMED)),all,$(call list,$(NAMED)))')

INSTALLED = .venv/installed
IN_VENV = PATH="$(CURDIR)/.venv/bin:$$PATH"
SNAKEMAKE = .venv/bin/snakemake --cores $(CORES) --resources gpu=$(GPUS) --config preset=$(PRESET) $(CHOICE)

.PHONY: help reproduce results datasets status doctor docs test faults lint clean

# A target's help is what follows ## on its line.
help: ## say what make can do
	@echo "make TARGET [PRESET=$(PRESET)] [PAPERS=\"cape tsm\"] [CORES=$(CORES)] [GPUS=$(GPUS)] [PYTHON=$(PYTHON)]"
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' Makefile | \
		while IFS='|' read -r target text; do printf '  %-10s %s\n' "$$target" "$$text"; done
	@echo
	@echo "presets: smoke (minutes), cpu (a laptop), gpu (one GPU), paper (days)."
	@echo "papers: names of files in configs/experiments, or all; else the tour of configs/config.yaml."
	@echo "The programs behind it: .venv/bin/python -m longrun"

reproduce: $(INSTALLED) ## data, training, verdicts and figures: the tour, or PAPERS
	$(SNAKEMAKE) --rerun-incomplete
ifneq ($(OTHERS),)
	$(IN_VENV) python -m longrun.smoke --besides $(ONE_OF_EACH)
endif
	$(SNAKEMAKE) --report results/$(PRESET)/report.html
	@echo "Done. Open results/$(PRESET)/results.html; results/$(PRESET)/report.html adds code and run times."

results: reproduce ## the same, then docs/papers, RESULTS.md and the README's table
	$(IN_VENV) python -m longrun.record --preset $(PRESET)

datasets: $(INSTALLED) ## every dataset, docs/datasets.md and docs/equations
	$(SNAKEMAKE) --rerun-incomplete -- datasets
	$(IN_VENV) python -m longrun.catalogue --preset $(PRESET) --facts results/$(PRESET)/datasets \
		--output docs/datasets.md

status: $(INSTALLED) ## what is done, running, failed or out of date, and what it would cost
	@$(IN_VENV) python -m longrun.status --preset $(PRESET)

doctor: $(INSTALLED) ## versions, devices, disk, Slurm, wandb: what is here, what to mend
	@$(IN_VENV) python -m longrun.doctor

docs: $(INSTALLED) ## the site, in docs/_build/html: gallery of papers, how-tos, reference
	rm -rf docs/_build/html docs/api docs/examples docs/metrics docs/_static
	$(IN_VENV) sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html -d docs/_build/trees
	@echo "Done. Open docs/_build/html/index.html."

# Compiled files are kept, whatever the environment says: each of some hundred programs would compile anew.
TESTS = $(IN_VENV) OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= pytest

test: lint ## all checks and tests
	$(TESTS) --numprocesses logical --maxprocesses 8 --dist loadgroup --no-loadscope-reorder --durations 10

faults: $(INSTALLED) ## break everything on purpose, ten times as often as test; writes docs/reliability.md
	FAULTS=full $(TESTS) tests/faults

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
	$(IN_VENV) python -m pip install --editable '.[dev,docs]'
	touch $@
