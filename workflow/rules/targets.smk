rule all_papers:
    input:
        multiext(f"results/{config['preset']}/results", ".csv", ".html"),
        artefacts,
    localrule: True


TARGETS = named()

for target, files in TARGETS.items():

    rule:
        name:
            target
        input:
            files,
        localrule: True


rule unknown:
    input:
        nearest,
    output:
        "{unknown}",
    log:
        "logs/{unknown}.log",
    wildcard_constraints:
        unknown=r"[\w.]+",
    conda:
        "../../environment.yml"
    shell:
        "false"
