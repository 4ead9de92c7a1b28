rule all_papers:
    input:
        multiext(f"results/{config['preset']}/results", ".csv", ".html"),
        artefacts,
    localrule: True


if workflow.is_main_process:
    check_asked()


onstart:
    check_gpu(workflow.dag.needrun_jobs())
    announce(workflow.dag.needrun_jobs())


# Each name on the command line becomes a rule; there are none for other names.
for target, files in asked_by_name().items():

    rule:
        name:
            target
        input:
            files,
        localrule: True
