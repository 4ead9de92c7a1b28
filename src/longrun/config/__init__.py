"""The YAML files: read, composed, checked. Imports no torch: the Snakefile imports this."""

from longrun.config.checks import compose_dataset
from longrun.config.compose import (
    check_settings,
    chosen,
    compose,
    compose_run,
    settings,
    validate_all,
)
from longrun.config.layers import datasets, experiments, presets, sweeps
from longrun.config.runs import (
    changes,
    devices,
    evaluate_spec,
    figures,
    gpus,
    judge_spec,
    method_spec,
    of_method,
    rollout_gpus,
    run_folder,
    stores,
    train_spec,
    view,
)
from longrun.config.yaml import ConfigError, canonical, fingerprint, load, merge, value

__all__ = [
    "ConfigError",
    "canonical",
    "changes",
    "check_settings",
    "chosen",
    "compose",
    "compose_dataset",
    "compose_run",
    "datasets",
    "devices",
    "evaluate_spec",
    "experiments",
    "figures",
    "fingerprint",
    "gpus",
    "judge_spec",
    "load",
    "merge",
    "method_spec",
    "of_method",
    "presets",
    "rollout_gpus",
    "run_folder",
    "settings",
    "stores",
    "sweeps",
    "train_spec",
    "validate_all",
    "value",
    "view",
]
