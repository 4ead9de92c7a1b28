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
SOURCE = "source"  # format, path and files (name, size, SHA-256) that a store was read from
LAYOUT = "layout"  # what exporting a store back to the format of its files needs
FIELDS = "fields"
STATIC = "static"  # fields that are the same in every frame of a trajectory, such as masks
PARAMETERS = "parameters"
BOUNDARY = "boundary"
PERIODIC = "periodic"  # the one condition that joins both ends of an axis
CONFIG = "config"
PROVENANCE = "provenance"
REFERENCE_ERROR = "reference_error"
PREDICTABILITY = "predictability"
CENSORED = "predictability_censored"
COMPLETE = "complete"
