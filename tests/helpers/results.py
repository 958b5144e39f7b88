"""What an evaluation wrote, in tests."""

from __future__ import annotations

from hyperclip.evaluation.results_files import read_results


def rows_of(folder):
    """The rows of an output folder by dataset."""
    return {row["dataset"]: row for row in read_results(folder)}
