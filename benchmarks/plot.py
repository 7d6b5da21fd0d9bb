"""Bar charts of results as static SVG: no scripts, no external resources."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pygal  # type: ignore[import-untyped]
from pygal.style import Style  # type: ignore[import-untyped]

STYLE = Style(
    background="#ffffff",
    plot_background="#ffffff",
    colors=("#c2410c", "#94a3b8", "#64748b", "#0f766e", "#1d4ed8", "#7c3aed"),
    font_family="sans-serif",
    title_font_size=17,
    label_font_size=13,
    legend_font_size=13,
    value_font_size=11,
)


def bars(path: Path, title: str, groups: Sequence[str], series: Mapping[str, Sequence[float]]) -> None:
    """Write a chart with a group of bars for each of `groups`; a series has one value above zero per group, on a log scale."""
    chart = pygal.Bar(
        style=STYLE,
        js=(),
        title=title,
        width=960,
        height=420,
        legend_at_bottom=True,
        legend_at_bottom_columns=5,
        logarithmic=True,
        range=(0.1, 1.2 * max(max(values) for values in series.values())),
        zero=0.1,
        show_y_guides=False,
        show_y_labels=False,
        truncate_label=-1,
        print_values=True,
        value_formatter=lambda value: f"{value:.1f}" if value < 100 else f"{value:.0f}",
        no_prefix=True,
    )
    chart.x_labels = groups
    for name, values in series.items():
        chart.add(name, values)
    path.write_bytes(chart.render())
