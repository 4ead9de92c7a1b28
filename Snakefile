"""Data, training, rollouts, verdicts and report of every experiment in configs/config.yaml."""

from snakemake.utils import min_version

min_version("9.20")


configfile: "configs/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/sweep.smk"


rule all:
    default_target: True
    input:
        multiext(f"results/{config['preset']}/results", ".csv", ".html"),
        artefacts,
    localrule: True


include: "workflow/rules/targets.smk"
