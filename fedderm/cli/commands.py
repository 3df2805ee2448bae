"""The commands of one model: run, compare, report, evaluate, predict, explain, export and ensemble."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Config = Annotated[Path, typer.Argument(help="The experiment's YAML file.", show_default=False)]
DataRoot = Annotated[Path | None, typer.Option(help="Where the sources' folders lie (replaces data_root).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Replace a setting: rounds=3, sites.vienna_dias.role=train.")
]


def run(
    config: Annotated[
        Path | None,
        typer.Argument(help="The experiment's YAML file; not needed with --resume.", show_default=False),
    ] = None,
    data_root: DataRoot = None,
    overrides: Overrides = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run's folder.")] = None,
) -> None:
    """Train, evaluate and recalibrate a cascade across sites, and write a report."""
    from fedderm.cli.console import Console
    from fedderm.cli.running import start

    start(config, data_root, overrides or [], resume, Console())


def compare(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="An experiment's YAML file with a section compare; not needed with --resume.",
            show_default=False,
        ),
    ] = None,
    data_root: DataRoot = None,
    overrides: Overrides = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an unfinished comparison's folder.")] = None,
) -> None:
    """Compare strategies over seeds, on one federation: run each cell, and tell what can be concluded.

    A cell that fails does not stop the others; the exit code is then 2.
    """
    from fedderm.cli.comparison import start
    from fedderm.cli.comparison_console import ComparisonConsole

    start(config, data_root, overrides or [], resume, ComparisonConsole())


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs or comparisons.", show_default=False)],
) -> None:
    """Draw report.html again from what a run left, or compare.html from what a comparison did."""
    from fedderm.comparison import build_comparison
    from fedderm.report import build_report

    for folder in runs:
        draw = build_comparison if (folder / "cells.csv").is_file() else build_report
        typer.echo(draw(folder))


def evaluate(
    model: Annotated[
        Path,
        typer.Argument(help="A finished run's folder; with --site, a model's will do.", show_default=False),
    ],
    against: Annotated[
        Path | None, typer.Option(help="Another finished run, same sites and seed.", show_default=False)
    ] = None,
    site: Annotated[
        Path | None, typer.Option(help="Your hospital's site file (YAML): judge the model there, offline.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --site: a new folder for the report; default: beside that file.")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Judge a model at a held-out hospital without any network (--site), or compare two runs (--against).

    --site: metrics with intervals, thresholds and what they promise, what has changed, a report, predictions.
    --against: differences on the same lesions, with intervals and tests.
    """
    if (against is None) == (site is None):
        raise ValueError("fedderm evaluate: give either --site SITE.yaml or --against RUN")
    if site is not None:
        from fedderm.cli.validating import evaluate_at

        evaluate_at(model, site, out)
    elif against is not None:
        from fedderm.cli.comparing import evaluate_against

        evaluate_against(model, against, data_root)


def predict(
    model: Annotated[Path, typer.Argument(help="A run's folder, or its model folder.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", show_default=False)],
    site: Annotated[
        str | None, typer.Option(help="Use this site's calibration and threshold; default: the federation's.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line instead of a table.")
    ] = False,
    agreement: Annotated[
        float, typer.Option(help="Abstain where a smaller share of the mirrored views decides alike (0..1).")
    ] = 1.0,
    age: Annotated[float | None, typer.Option(help="In years; for a model that is told metadata.")] = None,
    sex: Annotated[str | None, typer.Option(help="female or male; likewise.")] = None,
    anatom_site: Annotated[
        str | None, typer.Option(help="Where the lesion is: back, face, ...; likewise.")
    ] = None,
) -> None:
    """Say for each image: probability of malignancy, decision, differential. Research use only.

    Where its mirrored views disagree, or the image is unlike the training sites', it says that it abstains.
    An image that cannot be read is named and does not stop the others; the exit code is then 2. Age, sex and
    anatomical site are those of all images named; what is left out counts as missing.
    """
    from fedderm.cli.prediction import predict_images
    from fedderm.metadata import Patient

    if not predict_images(model, images, site, as_json, agreement, Patient(age, sex, anatom_site)):
        raise typer.Exit(2)


def explain(
    model: Annotated[Path, typer.Argument(help="A run's folder, or its model folder.", show_default=False)],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", show_default=False)],
    to: Annotated[Path, typer.Option(help="A new folder for the page and its pictures.", show_default=False)],
    site: Annotated[
        str | None, typer.Option(help="Use this site's calibration and threshold; default: the federation's.")
    ] = None,
) -> None:
    """Show where in each image the model looked: heat maps on one page, and as PNG files. Research use only.

    An image that cannot be read is named and does not stop the others; the exit code is then 2.
    """
    from fedderm.cli.explaining import explain_images

    if not explain_images(model, images, to, site):
        raise typer.Exit(2)


def export(
    model: Annotated[Path, typer.Argument(help="A run's folder, or its model folder.", show_default=False)],
    to: Annotated[Path, typer.Option(help="The file to write: NAME.onnx.", show_default=False)],
    site: Annotated[
        str | None,
        typer.Option(help="With this site's calibration and threshold; default: the federation's."),
    ] = None,
) -> None:
    """Write the model as one ONNX file, checked against PyTorch, for use without fedderm (docs/export.md)."""
    from fedderm.exported import export_model

    told = export_model(model, site, to)
    typer.echo(
        f"{to}: {to.stat().st_size / 1e6:.1f} MB; {told['input']}; description: {to.with_suffix('.json')}"
    )
    typer.echo(f"threshold {told['threshold_probability']:.3f}: {told['threshold_origin']}")
    typer.echo(f"onnxruntime gives PyTorch's probabilities to {told['largest_difference']:.1g}")


def ensemble(
    out: Annotated[Path, typer.Argument(help="A new folder for the ensemble.", show_default=False)],
    runs: Annotated[
        list[Path], typer.Argument(help="Two or more finished runs, or model folders.", show_default=False)
    ],
    combine: Annotated[
        Literal["average", "vote"], typer.Option(help="Mean of calibrated probabilities, or share of votes.")
    ] = "average",
    data_root: Annotated[
        Path | None,
        typer.Option(help="Where all of the runs' sites lie: fit the ensemble's threshold on them."),
    ] = None,
) -> None:
    """Make one model of several, for predict, evaluate and export as any other (docs/ensembles.md)."""
    from fedderm.cli.ensembling import make_ensemble

    make_ensemble(out, runs, combine, data_root)
