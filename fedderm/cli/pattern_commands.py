"""``fedderm patterns consensus | agreement``: the dermoscopic patterns of BCC."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Dermoscopic patterns of BCC: what annotators agree on, and where a network looks.",
    no_args_is_help=True,
)


@app.command("consensus")
def consensus(
    annotations: Annotated[
        Path, typer.Argument(help="A table: image_id, annotator, seven patterns.", show_default=False)
    ],
    to: Annotated[Path, typer.Option(help="The consensus table to write (CSV).", show_default=False)],
    seed: Annotated[int, typer.Option(help="Of the intervals' draws.")] = 2026,
) -> None:
    """Estimate each annotator's sensitivity and specificity, and write what they agree on (docs/patterns.md).

    Dawid and Skene's EM, pattern by pattern, beside the majority's vote. Nothing leaves this machine.
    """
    from fedderm.cli.patterns import write_consensus

    write_consensus(annotations, to, seed)


@app.command("agreement")
def agreement(
    run: Annotated[Path, typer.Argument(help="A finished run's folder.", show_default=False)],
    data_root: Annotated[
        Path | None, typer.Option(help="Where the sources' folders lie (replaces data_root).")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Test images a site and pattern.")] = 100,
    seed: Annotated[int, typer.Option(help="Of random places and intervals.")] = 2026,
) -> None:
    """Hold Grad-CAM of each pattern's head against its mask, at simulated sites that have masks.

    Of real sites, which have none, it says where the maps lie and how far they are the same map.
    """
    from fedderm.cli.pattern_agreement import show_agreement

    show_agreement(run, data_root, most, seed)
