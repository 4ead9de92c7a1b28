"""The rows of docs/reliability.md: what the suite does, in order. Tests name a row by its key."""

ABOUT = """\
Written by `make faults`, which breaks things on purpose; CI repeats a tenth of it. A row is there
only if every case ended as the last column says: there is no other outcome.

Arrays, attributes of stores, checkpoints and scores have checksums. Text files, such as claims,
curves and tables, have none: a truncated JSON file is noticed, a changed digit is not.

Locks are advisory (`flock`) and end with their process. On network file systems they are as good as
the file system's: where it has none, nothing is locked, and two processes on two machines must not
write one output. What is flushed to the disk is only as safe as the disk is honest.

Errors in the YAML files are found before torch is imported, in a fraction of a second. What
only a network's constructor can refuse, such as a width of 0, comes after Lightning's import."""

HEADINGS = {
    "kill": "Killed in the middle",
    "disk": "Disks, files and clocks",
    "twice": "Two at once",
    "config": "Configurations",
    "hostile": "Hostile files",
    "memory": "Memory",
    "degenerate": "Data and losses that degenerate",
}
ROWS = {
    "kill_generate": "SIGKILL at a random moment of `generate`, then again",
    "kill_train": "SIGKILL at a random moment of `train`, then again",
    "kill_evaluate": "SIGKILL at a random moment of `evaluate`, then again",
    "kill_judge": "SIGKILL at a random moment of `judge`, then again",
    "kill_tabulate": "SIGKILL at a random moment of `tabulate`, then again",
    "disk_full": "a disk that is full before a verb has written its output, then one with room",
    "disk_read_only": "a verb whose output lies on a file system that is mounted read-only",
    "disk_gone": "a file that a verb reads is gone",
    "disk_gone_meanwhile": "a file vanishes after the verb has looked at it",
    "disk_flipped_chunk": "one random bit of a store's fields and parameters flipped",
    "disk_truncated_chunk": "one file of a store's fields and parameters cut at a random length",
    "disk_metadata": "one random bit of what describes a store or its arrays flipped",
    "disk_resumed": "one random file of an unfinished store flipped or cut, then `generate` again",
    "disk_truncated_checkpoint": "a checkpoint cut at a random length",
    "disk_flipped_checkpoint": "one random bit of a checkpoint flipped",
    "disk_state": "the state that a training goes on from, flipped or cut",
    "disk_scores": "one random bit of `scores.parquet` flipped, or the file cut",
    "disk_predictions": "one random file of the arrays in `predictions.zarr` flipped or cut",
    "disk_json": "`claims.json` or `evaluation.json` cut at a random length",
    "disk_clock": "the wall clock jumps by years, back or forth, whenever it is read",
    "twice_verb": "a verb is started while another process writes the same: two generators of one "
    "store, two trainings with one id",
    "twice_killed": "the process that held the lock was killed",
    "twice_snakemake": "a second `snakemake` in a folder where one is running",
    "config_hand": "configurations broken by hand: YAML that explodes, refers to itself or "
    "constructs objects, names that are paths, numbers without end, wrong types, unknown keys",
    "config_random": "configurations broken at random (hypothesis)",
    "config_started": "the same, given to `python -m longrun.generate` or `train` as users do",
    "config_command": "names that are paths or no names, and what only the machine or a network's "
    "constructor can refuse, given to `generate` and `train` after their imports",
    "hostile_checkpoint": "checkpoints that would run code, allocate without end, or hold nonsense",
    "hostile_store": "stores with absurd shapes, other codecs, or paths and links that leave them",
    "hostile_hdf5": "HDF5 files that are not HDF5, lead to other files, or have absurd shapes",
    "memory_rollout": "a rollout of 100,000 steps evaluated within a limit of memory",
    "memory_generate": "a store ten times as large as the memory that `generate` may take",
    "degenerate_loss": "a loss that is not finite, even where it is not checked",
    "degenerate_rollout": "rollouts that explode, or are not a number from the first step",
    "degenerate_constant": "fields that never vary, and targets that are all equal",
    "degenerate_single": "one trajectory, one frame",
}
