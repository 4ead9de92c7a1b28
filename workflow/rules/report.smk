rule plot:
    input:
        sources=figure_sources,
        claims="results/{preset}/{experiment}/claims.json",
        scores=of_runs("scores.parquet"),
        curves=of_runs("curves.csv"),
        predictions=of_first_seeds("predictions.zarr"),
    output:
        figures=report(
            directory("results/{preset}/{experiment}/figures"),
            patterns=["{figure}.svg"],
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{experiment}",
            labels={"figure": "{figure}", "preset": "{preset}"},
        ),
    log:
        "logs/{preset}/{experiment}/plot.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        captions=captions_of,
    shell:
        "python -m longrun.plot --experiment {wildcards.experiment} --preset {wildcards.preset} "
        "--configs configs --results results --output {output.figures} >{log} 2>&1"


rule publish:
    input:
        claims="results/{preset}/{experiment}/claims.json",
        scores=of_runs("scores.parquet"),
        figures="results/{preset}/{experiment}/figures",
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
    output:
        csv=report(
            "results/{preset}/results.csv",
            caption="../report/results.rst",
            category="Results",
            labels={"table": "all numbers, CSV", "preset": "{preset}"},
        ),
        html="results/{preset}/results.html",
        pages=directory("results/{preset}/pages"),
        claims=report(
            "results/{preset}/claims.html",
            caption="../report/results.rst",
            category="Results",
            labels={"table": "verdicts", "preset": "{preset}"},
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
