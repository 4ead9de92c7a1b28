"""Names of dimensions, coordinates and attributes of a store, in one place; see docs/stores.md."""

SPLITS = ("train", "valid", "test")

TRAJECTORY = "trajectory"
TIME = "time"
AXES = ("x", "y", "z")
FIELD = "field"
LEAD_TIME = "lead_time"

DT = "dt"  # parameter: time between two frames of a trajectory
LENGTH = "length"  # parameter: extent of a trajectory's domain along every axis

VERSION = "longrun_store"  # number of this schema: its presence marks a folder as a store
EQUATION = "equation"
FIELDS = "fields"
PARAMETERS = "parameters"
BOUNDARY = "boundary"
CONFIG = "config"
PROVENANCE = "provenance"
REFERENCE_ERROR = "reference_error"
PREDICTABILITY = "predictability"
CENSORED = "predictability_censored"
COMPLETE = "complete"
