"""Tables of figures as text, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

Row = Mapping[str, Any]


class TableFormat(StrEnum):
    text = "text"
    markdown = "markdown"
    csv = "csv"
    json = "json"


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def format_table(
    rows: Sequence[Row],
    columns: Mapping[str, Callable[[Any], str]],
    form: TableFormat = TableFormat.text,
) -> str:
    """Write rows as a table.

    Parameters
    ----------
    rows : sequence of mapping
        From names of columns to values; None is shown as nothing.
    columns : mapping
        Names in order, each with how its values are shown in text and Markdown; CSV and JSON get
        them as they are.
    """
    if form == TableFormat.json:
        return json.dumps([{name: row.get(name) for name in columns} for row in rows], indent=2)
    if form == TableFormat.csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(columns), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().rstrip("\n")
    shown = [
        ["" if row.get(name) is None else show(row[name]) for name, show in columns.items()]
        for row in rows
    ]
    cells = [list(columns), *shown]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    separator, edge = ("  ", "") if form == TableFormat.text else (" | ", "|")
    lines = []
    for row in cells:
        padded = [
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = separator.join(padded)
        lines.append(f"| {line} |" if edge else line.rstrip())
    if edge:
        rule = "|".join(
            "-" * (width + 2) if index == 0 else "-" * (width + 1) + ":"
            for index, width in enumerate(widths)
        )
        lines.insert(1, f"|{rule}|")
    return "\n".join(lines)
