rule generate:
    input:
        source=equation_source,
    output:
        store=directory("data/{preset}/{dataset}.zarr"),
    log:
        "logs/{preset}/generate/{dataset}.log",
    benchmark:
        "benchmarks/{preset}/generate/{dataset}.tsv"
    conda:
        "../../environment.yml"
    threads: 16
    resources:
        mem_mb=16000,
        runtime="4h",
    params:
        spec=dataset_spec,
    shell:
        "OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} "
        "python -m longrun.generate --dataset {wildcards.dataset} --preset {wildcards.preset} "
        "--configs configs --output {output.store} --workers {threads} >{log} 2>&1"
