rule simulate:
    input:
        source=dataset_sources,
    output:
        part=temp(directory("data/{preset}/parts/{dataset}/{part}")),
    log:
        "logs/{preset}/simulate/{dataset}/{part}.log",
    benchmark:
        "benchmarks/{preset}/simulate/{dataset}/{part}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=part_memory,
        runtime="4h",
    params:
        spec=dataset_spec,
    shell:
        "OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 "
        "python -m longrun.generate --dataset {wildcards.dataset} --preset {wildcards.preset} "
        "--configs configs --output {output.part} --part {wildcards.part} >{log} 2>&1"


rule measure:
    input:
        source=dataset_sources,
    output:
        error=temp("data/{preset}/parts/{dataset}/error.json"),
    log:
        "logs/{preset}/measure/{dataset}.log",
    benchmark:
        "benchmarks/{preset}/measure/{dataset}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=part_memory,
        runtime="4h",
    params:
        spec=dataset_spec,
    shell:
        "OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 "
        "python -m longrun.generate --dataset {wildcards.dataset} --preset {wildcards.preset} "
        "--configs configs --output {output.error} --measure >{log} 2>&1"


rule generate:
    input:
        source=dataset_sources,
        parts=parts,
    output:
        store=directory("data/{preset}/{dataset}.zarr"),
    log:
        "logs/{preset}/generate/{dataset}.log",
    benchmark:
        "benchmarks/{preset}/generate/{dataset}.tsv"
    conda:
        "../../environment.yml"
    threads: generate_cores
    resources:
        mem_mb=generate_memory,
        runtime="4h",
    params:
        spec=dataset_spec,
        parts=parts_option,
    shell:
        "OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} "
        "python -m longrun.generate --dataset {wildcards.dataset} --preset {wildcards.preset} "
        "--configs configs --output {output.store} --workers {threads} {params.parts} >{log} 2>&1"


rule inspect:
    input:
        store="data/{preset}/{dataset}.zarr",
    output:
        preview="results/{preset}/datasets/{dataset}.png",
        facts="results/{preset}/datasets/{dataset}.json",
    log:
        "logs/{preset}/inspect/{dataset}.log",
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        "python -m longrun.inspect {input.store} --preview {output.preview} "
        "--facts {output.facts} >{log} 2>&1"


rule datasets:
    input:
        facts=all_facts,
    localrule: True
