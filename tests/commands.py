"""``fedderm`` as a person calls it: in this process for speed, or in a process of its own."""

import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from fedderm.cli import main


@dataclass(frozen=True)
class Result:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """Return the one sentence of a mistake, which is exit code 2 and nothing else on standard error."""
        assert self.code == 2, self
        assert "Traceback" not in self.err, self.err
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("fedderm: "), self.err
        return lines[0].removeprefix("fedderm: ")


def fedderm(*arguments: str | Path) -> Result:
    """Run a command in this process, through the door that the installed script uses."""
    out, err = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["fedderm", *map(str, arguments)]
    code: Any = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = before
    return Result(int(code), out.getvalue(), err.getvalue())


def process(*arguments: str | Path, cwd: Path, before: str = "", **environment: str) -> Result:
    """Run a command in a process of its own, after the Python statements ``before``."""
    code = f"{before}\nfrom fedderm.cli import main\nmain()"
    root = str(Path(__file__).resolve().parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def clinic(root: Path, rows: int = 12, malignant: int = 4, size: int = 40) -> Path:
    """Return a hospital's folder: ``rows`` noise images and a table, the first ``malignant`` melanomas."""
    folder = root / "clinic"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(rows)
    lines = ["image_id,lesion_id,diagnosis"]
    for row in range(rows):
        pixels = rng.integers(0, 256, (size, size + 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"i{row}.png")
        lines.append(f"i{row},L{row},{'mel' if row < malignant else 'nv'}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def write_config(root: Path, site: dict[str, Any] | None = None, **changes: Any) -> Path:
    """Write the config of an experiment with one folder site, ``clinic``, and return its path."""
    raw = {
        "name": "tiny",
        "rounds": 1,
        "data_root": str(root),
        "work_dir": str(root / "cache"),
        "runs_dir": str(root / "runs"),
        "model": {"backbone": "test_resnet", "pretrained": "none", "image_size": 32},
        "evaluation": {"bootstrap": 20, "views": 1},
        "resources": {"workers": 1},
        "sites": [{"name": "clinic", "source": "folder", "path": "clinic", **(site or {})}],
        **changes,
    }
    path = root / "c.yaml"
    path.write_text(yaml.safe_dump(raw), encoding="utf-8")
    return path
