"""What wrong labels cost, and what losses made for them are worth: configs/compare_losses.yaml over noise.

A fraction of the lesions of HAM10000's three training sources, drawn by seed, has its diagnosis exchanged:
malignant ones become nevi, benign ones melanomas. Held-out sites stay as they are, and are what counts; a
training site's own test split is as wrong as what it trains on.

    python -m benchmarks.noisy_labels --fraction 0.2 --data-root ../shared/data
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

CONFIG: Final = Path(__file__).resolve().parents[1] / "configs" / "compare_losses.yaml"
HELD_OUT: Final = "vienna_dias"
MALIGNANT: Final = ("mel", "bcc", "akiec")


def exchanged(table: pd.DataFrame, fraction: float, seed: int) -> pd.DataFrame:
    """Return HAM10000's table with the diagnosis of a fraction of its training sources' lesions exchanged."""
    training = table[table["dataset"] != HELD_OUT]
    kept = set(table.loc[table["dataset"] == HELD_OUT, "lesion_id"])
    lesions = np.array(sorted(set(training["lesion_id"]) - kept))
    wrong = np.random.default_rng(seed).choice(lesions, round(fraction * len(lesions)), replace=False)
    rows = table["lesion_id"].isin(wrong)
    said = np.where(table["dx"].isin(MALIGNANT), "nv", "mel")
    return table.assign(dx=np.where(rows, said, table["dx"]))


def main() -> None:
    """Print the comparison's table."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--fraction", type=float, default=0.2)
    arguments.add_argument("--seed", type=int, default=2026)
    arguments.add_argument("--data-root", type=Path, default=Path("../shared/data"))
    arguments.add_argument("--set", action="append", default=[], help="as of fedderm compare")
    asked = arguments.parse_args()
    root = asked.data_root.resolve()
    with tempfile.TemporaryDirectory() as folder:
        noisy = Path(folder) / "ham10000"
        noisy.mkdir()
        for file in root.iterdir():
            if file.name != "ham10000":
                Path(folder, file.name).symlink_to(file)
        for file in (root / "ham10000").iterdir():
            if file.is_dir():
                Path(noisy, file.name).symlink_to(file)
        table = pd.read_csv(root / "ham10000" / "HAM10000_metadata")
        changed = exchanged(table, asked.fraction, asked.seed)
        changed.to_csv(noisy / "HAM10000_metadata", index=False)
        lesions = table.loc[changed["dx"] != table["dx"], "lesion_id"].nunique()
        print(f"{lesions} lesions have a wrong diagnosis", flush=True)
        options = ["--data-root", folder, "--set", f"name=noisy_labels_{asked.fraction:g}"]
        options += [part for one in asked.set for part in ("--set", one)]
        command = [sys.executable, "-c", "from fedderm.cli import main; main()", "compare", str(CONFIG)]
        raise SystemExit(subprocess.run([*command, *options], check=False).returncode)


if __name__ == "__main__":
    main()
