rule evaluate:
    input:
        source=method_source,
        data=test_stores,
        checkpoint=f"results/{RUN}/model.ckpt",
    output:
        scores=f"results/{RUN}/scores.parquet",
        predictions=directory(f"results/{RUN}/predictions.zarr"),
        provenance=f"results/{RUN}/evaluation.json",
    log:
        f"logs/{RUN}/evaluate.log",
    benchmark:
        f"benchmarks/{RUN}/evaluate.tsv"
    conda:
        "../../environment.yml"
    threads: cores
    resources:
        gpu=rollout_gpus,
        mem_mb=run_memory,
        runtime=rollout_runtime,
    params:
        spec=evaluate_spec,
        folder=subpath(output.scores, parent=True),
    shell:
        "OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} "
        "python -m longrun.evaluate --experiment {wildcards.experiment} --method {wildcards.method} "
        "--seed {wildcards.seed} --preset {wildcards.preset} --configs configs "
        "--data {input.data} --checkpoint {input.checkpoint} --output {params.folder} >{log} 2>&1"


rule judge:
    input:
        scores=of_runs("scores.parquet"),
        halves=half_curves,
    output:
        claims="results/{preset}/{experiment}/claims.json",
    log:
        "logs/{preset}/{experiment}/judge.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        spec=judge_spec,
    shell:
        "python -m longrun.judge --experiment {wildcards.experiment} --preset {wildcards.preset} "
        "--configs configs --results results --output {output.claims} >{log} 2>&1"
