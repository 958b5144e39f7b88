"""An error report as one HTML page: no network, no script; dark and light, for screen readers too.

All texts of results and datasets are escaped.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from . import error_charts as charts
from .error_pictures import Pictures
from .page_style import STYLE

FIRST = 20
"""Rows of a long table that are shown at once."""
Row = Sequence[str]


def number(value: float | None, digits: int = 1, unit: str = "") -> str:
    """A number for a reader, "–" for none."""
    return "–" if value is None else f"{value:,.{digits}f}{unit}".replace(",", "\u202f")


def said(name: str | None) -> str:
    """The name of a class, or words for a pixel that got none."""
    return "<em>no class</em>" if name is None else escape(name)


def table(caption: str, header: Sequence[str], rows: Sequence[Row], texts: int = 1) -> str:
    """A table of HTML cells; the first of a row is its header, and the first ``texts`` columns are
    texts, the others numbers.
    """
    kinds = ["" if k < texts else ' class="number"' for k in range(len(header))]
    head = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>'
        for kind, name in zip(kinds, header, strict=True)
    )
    body = []
    for first, *others in rows:
        cells = "".join(
            f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], others, strict=True)
        )
        body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption><thead><tr>{head}</tr>'
        f"</thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def with_bar(value: float | None, kind: str = "main", scale: float = 100) -> str:
    """A percentage and its bar."""
    bar = charts.bar(value, kind, scale)
    return f'<span class="with-bar"><span>{number(value)}</span>{bar}</span>'


def section(title: str, about: str, *content: str) -> str:
    """A part of the page; ``about`` says how to read it."""
    return f"<section><h2>{escape(title)}</h2><p>{about}</p>{''.join(content)}</section>"


def error_page(report: Mapping[str, Any], pictures: Mapping[int, Pictures]) -> str:
    """The whole page; ``pictures`` by the place of an image."""
    about = report["about"]
    title = f"Errors of {about['system']} on {about['dataset']}"
    parts = [
        _head(report, title),
        _pairs(report["pairs"]),
        _seen(report),
        _sizes(report["sizes"]),
        _border(report["border"]),
        _calibration(report),
        _images(report["images"], pictures),
        _classes(report["classes"]),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _head(report: Mapping[str, Any], title: str) -> str:
    about, overall = report["about"], report["overall"]
    ece = report["calibration"]["ECE"]
    tiles = [
        ("mIoU", number(overall["mIoU"], unit=" %"), "mean over the classes that are there"),
        ("right pixels", number(overall["pACC"], unit=" %"), f"of {number(overall['pixels'], 0)}"),
        ("errors near borders", number(report["border"]["of_errors"], unit=" %"), _band(report)),
        ("calibration error", number(ece, unit=" %"), "distance of confidence and truth"),
        ("images", number(overall["images"], 0), escape(about["dataset"])),
    ]
    cards = "".join(
        f"<div><dt>{name}</dt><dd><strong>{value}</strong><span>{note}</span></dd></div>"
        for name, value, note in tiles
    )
    facts = {
        "backbone": about.get("backbone"),
        "protocol": about["protocol"],
        "vocabulary": about.get("vocabulary"),
        "names asked": about.get("ask"),
        "precision": about.get("precision"),
        "trained on": ", ".join(about["trained_on"]),
    }
    line = " · ".join(f"{k}: {escape(str(v))}" for k, v in facts.items() if v)
    return f'<header><h1>{escape(title)}</h1><p>{line}</p></header><dl class="tiles">{cards}</dl>'


def _band(report: Mapping[str, Any]) -> str:
    return f"within {report['border']['band']:g} % of the diagonal"


def _pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    most = max((pair["of_class"] for pair in pairs), default=100)
    rows = [
        (
            escape(pair["truth"]),
            said(pair["prediction"]),
            number(pair["pixels"], 0),
            with_bar(pair["of_class"], "wrong", most),
            number(pair["of_errors"]),
        )
        for pair in pairs
    ]
    header = ("is", "is called", "pixels", "% of the class", "% of all errors")
    about = (
        "Which class is taken for which, by pixels. A pair in both directions is often two names "
        "that the system does not tell apart, one in one direction a name that attracts others."
    )
    if not rows:
        return section("Confusion pairs", "No pixel is wrong.")
    return section("Confusion pairs", about, table("Largest confusion pairs", header, rows, 2))


def _seen(report: Mapping[str, Any]) -> str:
    seen, title = report["seen"], "Seen and unseen classes"
    if seen is None:
        reason = escape(report["seen_unknown"])
        return section(title, f"Not known: {reason}. Name them by <code>--seen</code>.")
    rows, bars = [], []
    for name, group in seen["groups"].items():
        if not group["classes"]:
            bars.append(f"<p>No class of this dataset is {name}.</p>")
            continue
        taken = group["taken_for"]
        rows.append(
            (
                name,
                f"{group['present']} of {group['classes']}",
                number(group["pixels"], 0),
                with_bar(group["mIoU"]),
                number(group["right"]),
                *(number(taken[k]) for k in ("seen", "unseen", "background", "no class")),
            )
        )
        kinds = [
            ("right", "main", group["right"]),
            ("called another seen class", "wrong", taken["seen"]),
            ("called another unseen class", "wrong-2", taken["unseen"]),
            ("no class", "soft", (taken["background"] or 0) + (taken["no class"] or 0)),
        ]
        label = f"Pixels of {name} classes"
        bars.append(f"<h3>{label}</h3>{charts.shares(kinds, label)}")
    header = (
        "classes", "in the truth", "pixels", "mIoU", "% right", "% called seen",
        "% called unseen", "% background", "% no class",
    )  # fmt: skip
    about = (
        f"Seen are the classes that training showed with masks ({escape(seen['source'])}). Blue is "
        "right; orange is called another seen class, violet another unseen one. What was trained "
        "on few classes tends to call things by those."
    )
    return section(title, about, *bars, table("Seen against unseen classes", header, rows))


def _sizes(sizes: Sequence[Mapping[str, Any]]) -> str:
    bounds = [f"{row['from']:g}" for row in sizes[1:]]
    rows = [
        (
            row["size"],
            number(row["segments"], 0),
            number(row["pixels"], 0),
            with_bar(row["pixel_recall"]),
            with_bar(row["segment_recall"]),
            number(row["missed"]),
        )
        for row in sizes
    ]
    header = ("size", "segments", "pixels", "% of pixels right", "% right, mean of segments",
              "% without a right pixel")  # fmt: skip
    about = (
        "Segments are connected parts of one label in the truth: small ones have less than "
        f"{bounds[0]} % of the image, large ones {bounds[1]} % or more."
    )
    return section("Sizes of segments", about, table("Recall by size", header, rows))


def _border(border: Mapping[str, Any]) -> str:
    near, errors = border["of_pixels"], border["of_errors"]
    bars = ""
    for label, value in (("Pixels that count", near), ("Errors", errors)):
        if value is not None:
            parts = [("near", "wrong", value), ("elsewhere", "soft", 100 - value)]
            bars += f"<h3>{label}</h3>{charts.shares(parts, f'{label}: {value:.1f} % near')}"
    about = (
        f"Near means within {border['band']:g} % of the image's diagonal of another label, ignored "
        f"ones too. Of the pixels near a border {number(border['wrong_near'])} % are wrong, of "
        f"the others {number(border['wrong_far'])} %. Errors far from borders are regions with a "
        "wrong name; near ones may be outlines, or regions that are all border."
    )
    return section("Borders", about, bars)


def _calibration(report: Mapping[str, Any]) -> str:
    found, largest = report["calibration"], report["about"]["largest_confidence"]
    rows = [
        (
            f"{100 * row['from']:.0f}–{100 * row['to']:.0f} %",
            number(row["pixels"], 0),
            number(row["confidence"]),
            number(row["right"]),
        )
        for row in found["bins"]
    ]
    scale = "from 0 to 1" if largest == 1 else f"from 0 to {largest:g}, divided by {largest:g}"
    outside = report["overall"].get("outside", 0)
    cut = f" {number(outside, 0)} pixels outside of it were cut off." if outside else ""
    about = (
        f"The confidence is the system's own score of the class it chose, {scale}; it is no "
        f"probability by itself.{cut} Pixels that got a class are "
        "in ten bins of it. Where a bar ends at the diagonal, the confidence says how often the "
        f"system is right; red is the difference. On the whole it says "
        f"{number(found['confidence'])} % and is right in {number(found['right'])} %; the mean "
        f"difference by bin (ECE) is {number(found['ECE'])} %."
    )
    header = ("confidence", "pixels", "mean confidence, %", "right, %")
    both = charts.reliability(found["bins"]) + table("Calibration by bin", header, rows)
    return section("Calibration", about, f'<div class="beside">{both}</div>')


def _images(images: Sequence[Mapping[str, Any]], pictures: Mapping[int, Pictures]) -> str:
    figures = []
    for row in images:
        if row["place"] not in pictures:
            continue
        own, name = pictures[row["place"]], escape(str(row["image_id"]))
        kinds = ("input", "truth", "prediction")
        panels = "".join(
            f'<img src="{url}" alt="{kind} of image {name}">'
            for kind, url in zip(kinds, own.panels, strict=True)
        )
        keys = "".join(
            f'<li><i style="background:{color}"></i>{escape(text)}</li>'
            for color, text in own.legend
        )
        mistake = row["mistake"]
        what = (
            f"{escape(mistake['truth'])} is called {said(mistake['prediction'])} "
            f"({number(mistake['of_image'])} % of the image)"
            if mistake
            else ""
        )
        figures.append(
            f'<figure><div class="panels">{panels}</div><figcaption><b>{name}</b> '
            f"{number(row['mIoU'])} % mIoU, {number(row['wrong'])} % wrong. {what}"
            f'<ul class="legend">{keys}</ul></figcaption></figure>'
        )
    about = "Input, truth and prediction, the lowest mIoU of an image first."
    return section("Worst images", about, f'<div class="worst">{"".join(figures)}</div>')


def _classes(classes: Sequence[Mapping[str, Any]]) -> str:
    words = {True: "seen", False: "unseen", None: "–"}
    rows = [
        (
            escape(row["name"]),
            words[row["seen"]],
            with_bar(row["IoU"]),
            number(row["recall"]),
            number(row["precision"]),
            number(row["pixels"], 0),
        )
        for row in classes
    ]
    header = ("class", "in training", "IoU, %", "recall, %", "precision, %", "pixels")
    parts = [table("IoU of classes", header, rows[:FIRST], 2)]
    if rows[FIRST:]:
        more = table("IoU of the other classes", header, rows[FIRST:], 2)
        count = len(rows) - FIRST
        parts.append(f"<details><summary>{count} more classes</summary>{more}</details>")
    about = (
        "The lowest IoU first. Low recall: its pixels are called something else. Low precision: "
        "other pixels are called so."
    )
    return section("Classes", about, *parts)
