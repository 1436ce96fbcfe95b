# Snakemake's part of `course sweep` (lib/course/sweeps.py), which writes the configuration. A run is one job; its folder
# is no output here, for Snakemake deletes the outputs of jobs that died, and checkpoints must outlive them.

localrules: all

wildcard_constraints:
    name=".+"

rule all:
    input: expand("done/{name}", name=config["names"])

rule run:
    output: touch("done/{name}")
    log: "logs/{name}.log"
    params: course=config["course"], file=config["file"]
    shell: "{params.course:q} sweep {params.file:q} --run {wildcards.name:q} > {log:q} 2>&1"
