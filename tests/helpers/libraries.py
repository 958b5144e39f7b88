"""Imports what the programs import, none of which computes anything meanwhile."""

import cliper  # noqa: F401
import hyperclip.commands.demo
import hyperclip.commands.evaluate
import hyperclip.commands.train  # noqa: F401
import hyperclip.data.detectron2_catalog
import hyperclip.meta_arch  # noqa: F401
