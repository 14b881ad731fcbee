"""What a data set is made of: counts by label, subject and attribute, as a table and a plot."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from training.data.datasets import CLOSED, OPEN, Dataset, LabelledCrop, count, values
from training.plots import SHOWN, plot_counts


def describe(dataset: Dataset[LabelledCrop], output: Path, console: Console) -> None:
    """Print the counts of labelled crops and the refused files, and draw ``output/counts.png``."""
    table = Table("", "value", "closed", "open", "share open")
    for attribute in SHOWN:
        counts = count(dataset.crops, attribute)
        for value in values(dataset.crops, attribute):
            closed, opened = counts[value, CLOSED], counts[value, OPEN]
            table.add_row(attribute, value, f"{closed:,}", f"{opened:,}", f"{opened / (closed + opened):.2f}")
        table.add_section()
    console.print(table)
    console.print(f"{len(dataset.crops):,} crops, {len(dataset.refused):,} files refused")
    if dataset.left_out:
        console.print(str(dataset.left_out))
    for reason, files in Counter(refusal.reason for refusal in dataset.refused).most_common():
        example = next(refusal.name for refusal in dataset.refused if refusal.reason == reason)
        console.print(f"  {files:,} × {reason}, such as {example}", highlight=False, markup=False, soft_wrap=True)
    (output / "refused.txt").parent.mkdir(parents=True, exist_ok=True)
    (output / "refused.txt").write_text("".join(f"{r.name}\t{r.reason}\n" for r in dataset.refused))
    plot_counts(dataset.crops, output / "counts.png")
    console.print(f"wrote {output / 'counts.png'} and {output / 'refused.txt'}")
