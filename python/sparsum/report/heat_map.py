"""The table of symbols and concepts as a heat map with words beside it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path


MOST_CONCEPTS = 40


@dataclass(frozen=True)
class SymbolTable:
    """p(concept | symbol) of the symbols that are used most."""

    symbols: list[int]
    use: list[float]
    """How often each is said: shares of all games."""
    concepts: list[str]
    shares: list[list[float]]
    """A row for each symbol, which sums to 1."""


def read(path: Path) -> SymbolTable:
    """Raises ValueError, with what is wrong, for a file that is no such table."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        table = SymbolTable(
            symbols=[int(symbol) for symbol in content["symbols"]],
            use=[float(use) for use in content["use"]],
            concepts=[str(concept) for concept in content["concepts"]],
            shares=[[float(share) for share in row] for row in content["shares"]],
        )
    except KeyError as error:
        raise ValueError(f"{error} is missing") from error
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(str(error)) from error
    rows = len(table.symbols)
    if not rows or len(table.use) != rows or len(table.shares) != rows:
        raise ValueError("expected as many rows and uses as symbols, and at least one")
    if any(len(row) != len(table.concepts) for row in table.shares):
        raise ValueError("expected a share for each concept in every row")
    if not all(math.isfinite(share) for row in table.shares for share in row):
        raise ValueError("expected finite shares")
    return table


def draw(table: SymbolTable) -> bytes:
    """As PNG: a row a symbol, a column a concept; colour is p(concept | symbol). Of many concepts
    only those are shown that are the largest share of some symbol, or nearest to it."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    from sparsum.report import figures, style

    # Each concept beside those whose strongest symbol is as much used.
    strongest = [max(column) for column in zip(*table.shares, strict=True)]
    shown = sorted(range(len(strongest)), key=lambda concept: -strongest[concept])[:MOST_CONCEPTS]
    left_out = len(strongest) - len(shown)
    order = sorted(
        shown,
        key=lambda concept: max(range(len(table.shares)), key=lambda i: table.shares[i][concept])
        if strongest[concept] > 0
        else len(table.shares),
    )
    shares = [[row[concept] for concept in order] for row in table.shares]
    rows, columns = len(shares), len(order)
    with matplotlib.rc_context(style.RC):
        height = max(3.6, 1.9 + 0.19 * rows)
        figure = Figure(figsize=(style.WIDTH, height), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(columns), [table.concepts[concept] for concept in order])
        axes.tick_params(axis="x", labeltop=True, labelbottom=False, top=False, bottom=False)
        for label in axes.get_xticklabels():
            label.set(rotation=50, ha="left", rotation_mode="anchor")
        names = [f"{s} · {u:.1%}" for s, u in zip(table.symbols, table.use, strict=True)]
        axes.set_yticks(range(rows), names, fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.set_ylabel("symbol · share of games")
        if left_out > 0:
            axes.set_xlabel(f"and {left_out:,} concepts with smaller shares")
        axes.grid(visible=False)
        for side in axes.spines.values():
            side.set_visible(False)
        axes.set_xticks([x - 0.5 for x in range(1, columns)], minor=True)
        axes.set_yticks([y - 0.5 for y in range(1, rows)], minor=True)
        axes.grid(which="minor", color="white", linewidth=1)
        axes.tick_params(which="minor", length=0)
        bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
        bar.set_label("share of the concept")
        bar.outline.set_visible(False)
        return figures.to_bytes(figure, "png")
