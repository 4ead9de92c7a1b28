rule train:
    input:
        source=train_sources,
        data=train_stores,
        start=start,
    output:
        checkpoint=f"results/{RUN}/model.ckpt",
        curves=f"results/{RUN}/curves.csv",
    log:
        f"logs/{RUN}/train.log",
    benchmark:
        f"benchmarks/{RUN}/train.tsv"
    conda:
        "../../environment.yml"
    threads: cores
    resources:
        gpu=job_gpus,
        gres=gres,
        mem_mb=run_memory,
        runtime=train_runtime,
        nodes=nodes,
        tasks=tasks,
        tasks_per_node=tasks_per_node,
        tasks_per_gpu=0,  # the tasks are counted already
        mpi=mpi,
    params:
        spec=train_spec,
        start=start_option,
        run_dir=f"runs/{RUN}",
        launcher=launcher,
    shell:
        "OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} "
        "{params.launcher} python -m longrun.train --experiment {wildcards.experiment} --method {wildcards.method} "
        "--seed {wildcards.seed} --preset {wildcards.preset} --configs configs "
        "--data {input.data} --output {output.checkpoint} {params.start} "
        "--run-dir {params.run_dir} >{log} 2>&1"
