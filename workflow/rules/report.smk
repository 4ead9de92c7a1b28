for figure in FIGURES:

    rule:
        name:
            f"plot_{figure}"
        input:
            source=source("figures", figure),
            claims="results/{preset}/{experiment}/claims.json",
            scores=of_runs("scores.parquet"),
            curves=of_runs("curves.csv"),
            predictions=of_first_seeds("predictions.zarr"),
        output:
            report(
                f"results/{{preset}}/{{experiment}}/figures/{figure}.svg",
                caption=f"../report/{figure}.rst",
                category="Figures",
                subcategory="{experiment}",
                labels={"figure": figure.replace("_", " "), "preset": "{preset}"},
            ),
        log:
            f"logs/{{preset}}/{{experiment}}/plot_{figure}.log",
        localrule: True
        conda:
            "../../environment.yml"
        params:
            figure=figure,
        shell:
            "python -m longrun.plot {params.figure} --experiment {wildcards.experiment} "
            "--preset {wildcards.preset} --configs configs --results results --output {output} "
            ">{log} 2>&1"


rule publish:
    input:
        claims="results/{preset}/{experiment}/claims.json",
        scores=of_runs("scores.parquet"),
        figures=figures_of,
    output:
        artefact="results/{preset}/{experiment}/artefact.json",
    log:
        "logs/{preset}/{experiment}/publish.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        spec=publish_spec,
    shell:
        "python -m longrun.publish --experiment {wildcards.experiment} --preset {wildcards.preset} "
        "--configs configs --results results --output {output.artefact} >{log} 2>&1"


rule tabulate:
    input:
        claims=verdicts,
        figures=figures,
        captions=expand("workflow/report/{figure}.rst", figure=FIGURES),
    output:
        csv=report(
            "results/{preset}/results.csv",
            caption="../report/results.rst",
            category="Results",
            labels={"table": "all numbers, CSV", "preset": "{preset}"},
        ),
        html="results/{preset}/results.html",
        claims=report(
            "results/{preset}/claims.html",
            caption="../report/results.rst",
            category="Results",
            labels={"table": "claims and methods", "preset": "{preset}"},
        ),
    log:
        "logs/{preset}/tabulate.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        experiments=wanted_spec,
        folder=subpath(output.html, parent=True),
    shell:
        "python -m longrun.tabulate --preset {wildcards.preset} --configs configs --results results "
        "--output-dir {params.folder} >{log} 2>&1"
