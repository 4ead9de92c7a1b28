rule all_papers:
    input:
        multiext(f"results/{config['preset']}/results", ".csv", ".html"),
        artefacts,
    localrule: True


for target, files in named().items():

    rule:
        name:
            target
        input:
            files,
        localrule: True
