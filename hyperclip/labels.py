"""Label values that every room agrees on."""

NO_CLASS = -1
"""Label of a pixel that belongs to none of the classes: a background, or a system that abstains."""

IGNORE = 255
"""Label of pixels that do not count, where a dataset does not say otherwise."""
