use rule train as train_point with:
    output:
        checkpoint=f"results/{POINT}/model.ckpt",
        curves=f"results/{POINT}/curves.csv",
    log:
        f"logs/{POINT}/train.log",
    benchmark:
        f"benchmarks/{POINT}/train.tsv"
    params:
        spec=train_spec,
        start=point_options,
        run_dir=f"runs/{POINT}",
        launcher=launcher,


rule rank:
    input:
        curves=sweep_curves,
    output:
        table="results/{preset}/sweeps/{sweep}.csv",
    log:
        "logs/{preset}/sweeps/{sweep}.log",
    localrule: True
    conda:
        "../../environment.yml"
    params:
        spec=sweep_spec,
    shell:
        "python -m longrun.rank configs/sweeps/{wildcards.sweep}.yaml --preset {wildcards.preset} "
        "--results results --output {output.table} >{log} 2>&1"
