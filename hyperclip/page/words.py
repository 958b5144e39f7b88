"""What the page says, as HTML: the legend, a pixel, notes and errors."""

import html
from collections.abc import Sequence

import numpy as np

from ..prediction import Prediction
from ..results import ClassRow
from ..vocabulary import Vocabulary
from .answers import Answer, BestClasses

LISTED = 20
"""Names that are listed where there are many."""


def error(message: str) -> str:
    """An error, which screen readers announce and which stays in the page."""
    return f'<div class="hc-error" role="alert">{html.escape(message)}</div>'


def notes(lines: Sequence[str]) -> str:
    """Lines that are no errors; "" for none."""
    text = "".join(f"<p>{html.escape(line)}</p>" for line in lines)
    return f'<div class="hc-note" role="status">{text}</div>' if text else ""


def asked_names(vocabulary: Vocabulary, prediction: Prediction) -> list[str]:
    """Lines on classes that were asked by several names, and what else may have been meant."""
    rule = prediction.synonyms
    several = [names for names in prediction.asked or () if len(names) > 1]
    lines = [f"{n[0]}: asked by {', '.join(n)} ({rule} of these names)" for n in several[:LISTED]]
    if vocabulary.doubt:
        lines.append(f"Warning: {vocabulary.doubt}")
    return lines


def legend(answer: Answer) -> str:
    """A table of the classes in an answer, largest first, each with its colour in the overlay, its
    share of the pixels and its mean confidence; then the names that no pixel has.
    """
    table = answer.prediction.to_table()
    found = [i for i, row in enumerate(table) if row.pixels]
    largest_first = sorted(found, key=lambda i: -table[i].pixels)
    rows = [_legend_row(table[i], answer.colors[i]) for i in largest_first]
    nothing = 1 - sum(row.share for row in table)
    if nothing > 1e-9 or not found:
        rows.append(f'<tr><th scope="row">no class</th><td>{nothing:.1%}</td><td></td></tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Class", "Share", "Confidence"))
    absent = [row.name for row in table if not row.pixels]
    more = f" and {len(absent) - LISTED} more" if len(absent) > LISTED else ""
    without = f"<p>Not found: {html.escape(', '.join(absent[:LISTED]))}{more}</p>" if absent else ""
    return (
        '<div class="hc-scroll" tabindex="0" role="region" aria-label="Legend">'
        f'<table class="hc-legend"><caption>Classes in the image</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{without}</div>"
    )


def _legend_row(row: ClassRow, color: np.ndarray) -> str:
    code = bytes(color.tolist()).hex()
    swatch = f'<span class="hc-swatch" style="background:#{code}" aria-hidden="true"></span>'
    cells = f"<td>{row.share:.1%}</td><td>{row.confidence:.2f}</td>"
    return f'<tr><th scope="row">{swatch}{html.escape(row.name)}</th>{cells}</tr>'


def pixel(answer: Answer, best: BestClasses, column: int, row: int) -> str:
    """The class of a pixel, and its best scores, which on large images are those of a cell around
    it; ValueError for a pixel outside the image.
    """
    answer.check_pixel(column, row)
    height, width = answer.prediction.labels.shape
    label = int(answer.prediction.labels[row, column])
    name = answer.vocabulary.names[label] if label >= 0 else "no class"
    grid = best.labels.shape[1:]
    y, x = row * grid[0] // height, column * grid[1] // width
    entries = zip(best.labels[:, y, x].tolist(), best.scores[:, y, x].tolist(), strict=True)
    classes = len(answer.vocabulary)
    items = [
        f"<li>{html.escape(best.names[i])}{' (background)' * (i >= classes)}: {score:.3f}</li>"
        for i, score in entries
    ]
    coarse = f" on a grid of {grid[1]} x {grid[0]}" if grid != (height, width) else ""
    return (
        f'<div class="hc-note hc-pixel" role="status"><p>Pixel ({column}, {row}): '
        f"<strong>{html.escape(name)}</strong>. Best scores{coarse}:</p>"
        f"<ol>{''.join(items)}</ol></div>"
    )
