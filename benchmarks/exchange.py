"""A training round between the server and one site in bytes: whole models, half precision, adapters, heads.

The messages are the ones that a run sends, of models with random weights: what they weigh does not depend on
values. What an exchange in half precision does to the metrics, configs/compare_exchange.yaml measures.

Then what half precision costs in time: nanoseconds a value of an update like those of training (three in four
below 2^-14, where float16 is subnormal), at the site and at the server, beside NumPy's own conversion.

    python -m benchmarks.exchange
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.supercore.task_identity import TaskIdentity

from benchmarks.claims import Claim, parser, report, told
from fedderm import config, messages
from fedderm.runs import RunFolder
from fedderm.serving import start_of
from fedderm.settings import Experiment
from strategies.arrays import size, specs, to_record
from strategies.guard import is_finite
from strategies.half_bits import plus_step, step_in_half
from strategies.half_precision import halved, halved_names

BACKBONES = {"vit_b16": 224, "convnext_s": 224, "tf_efficientnet_lite0": 112}
"""Name to pixels a side."""
WHOLE, HALF = "whole model, float32", "whole model, float16"
WAYS: dict[str, dict[str, Any]] = {
    WHOLE: {},
    HALF: {"strategy": {"exchange": "float16"}},
    "LoRA of rank 8, float32": {"training": {"trunk": "lora"}},
    "LoRA of rank 8, float16": {"training": {"trunk": "lora"}, "strategy": {"exchange": "float16"}},
    "heads, float32": {"training": {"trunk": "frozen"}},
}


def experiment(backbone: str, image_size: int, changes: dict[str, Any]) -> Experiment:
    """Return an experiment of one site."""
    model = {"backbone": backbone, "image_size": image_size, "pretrained": "none"}
    site = {"name": "clinic", "source": "simulated"}
    return config.parse({"name": "exchange", "model": model, "sites": [site], **changes})


def round_bytes(chosen: Experiment) -> tuple[int, int]:
    """Return the bytes of a ``train`` message and of its reply, as Flower counts a message's records."""
    with tempfile.TemporaryDirectory() as folder:
        _, initial = start_of(RunFolder.create_at(Path(folder), chosen))
    arrays = to_record(initial.arrays)
    names = halved_names(specs(arrays), chosen.strategy.exchange, initial.statistics)
    trunk = {} if chosen.training.trunk == "trained" else {"trunk": 16 * "0"}
    instruction = messages.config_record(chosen, server_round=1, **trunk)
    sent: RecordDict = messages.request(instruction, halved(arrays, names))
    message = Message(sent, 1, "train")
    message.metadata.__dict__["_message_id"] = "1"
    metrics = {"server-round": 1, "num-examples": 1, "steps": 1, "images": 1, "loss": 0.5, "progress": 0.1}
    trained = {name: np.array(values) for name, values in initial.arrays.items()}
    return size(sent), size(messages.train_reply(message, trained, metrics, {}).content)


def conversion(count: int, repeats: int = 5) -> None:
    """Print what ``count`` values cost on their way, of fedderm and of NumPy, which take turns."""
    rng = np.random.default_rng(0)
    start = rng.normal(0, 0.02, count).astype(np.float16)
    trained = start.astype(np.float32) + rng.normal(0, 5e-5, count).astype(np.float32)
    update = step_in_half(trained, start)
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "at the site: update to float16": (
            lambda: step_in_half(trained, start),
            lambda: (trained - start.astype(np.float32)).astype(np.float16),
        ),
        "at the server: check": (lambda: is_finite(update), lambda: np.isfinite(update).all()),
        "at the server: model plus update": (
            lambda: plus_step(trained, update),
            lambda: np.add(trained, update, dtype=np.float32),
        ),
    }
    print(f"\n{'ns a value':34}{'fedderm':>12}{'NumPy':>12}")
    for what, pair in ways.items():
        found: tuple[list[float], list[float]] = ([], [])
        for _ in range(repeats):
            for way, seconds in zip(pair, found, strict=True):
                begin = time.perf_counter()
                way()
                seconds.append(time.perf_counter() - begin)
        ours, theirs = (1e9 * median(seconds) / count for seconds in found)
        print(f"{what:34}{ours:>12.2f}{theirs:>12.2f}")


def main() -> None:
    """Print a table by backbone: megabytes down and up of a round and a site, and what part that is."""
    arguments = parser(__doc__)
    arguments.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=list(BACKBONES))
    # A Message needs to know who makes it; Flower sets this where it starts a run.
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID
    asked, claims = arguments.parse_args(), []
    for backbone in asked.backbones[-1:] if asked.quick else asked.backbones:
        print(f"\n{backbone:34}{'down, MB':>12}{'up, MB':>12}{'up, fewer':>12}")
        ups: dict[str, int] = {}
        for title, changes in WAYS.items():
            down, ups[title] = round_bytes(experiment(backbone, BACKBONES[backbone], changes))
            whole = next(iter(ups.values()))
            print(f"{title:34}{down / 1e6:>12.3f}{ups[title] / 1e6:>12.3f}{whole / ups[title]:>11.1f}x")
        claims.append(
            Claim(
                what=f"bytes up of a round in half precision, {backbone}",
                unit="% of float32's",
                ours=100 * ups[HALF] / ups[WHOLE],
                target=52.0,  # arrays of fewer than 1,024 elements stay as they are
            )
        )
    conversion(100_000 if asked.quick else 2_000_000)
    report(claims, asked)


if __name__ == "__main__":
    told(main)
