"""The checker of annotations in tests: an int is a float, as for mypy."""

from beartype import BeartypeConf, beartype

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
