"""The short table at the end of benchmarks.gpu."""

from collections.abc import Callable, Iterator
from typing import Any


def table(found: dict[str, Any]) -> str:
    """Return all sections' figures as text."""
    lines = [f"machine: {', '.join(f'{name} {value}' for name, value in found['machine'].items())}"]
    for name, rows in _ROWS.items():
        if name not in found:
            continue
        lines.append(f"-- {name} ({found.get(f'{name}_took_s')} s)")
        section = found[name] if isinstance(found[name], list) else [found[name]]
        for one in section:
            lines += [_failed(one)] if "error" in one else list(rows(one))
    return "\n".join(lines)


def _failed(one: dict[str, Any]) -> str:
    what = " ".join(str(one[key]) for key in ("net", "batch", "precision") if key in one)
    return f"{what} FAILED: {one['error'].strip().splitlines()[-1][:200]}"


def _tests(one: dict[str, Any]) -> Iterator[str]:
    yield f"exit code {one['rc']}: {one['tail'][-1] if one['tail'] else ''}"
    yield from (line for line in one["tail"] if line.startswith(("FAILED", "ERROR")))


def _steps(one: dict[str, Any]) -> Iterator[str]:
    peak = "/".join(f"{value:.1f}" for value in one["peak_gib"].values())
    loader = 1 - one["without_loader_ms"] / one["ours_ms"]
    augmented = 1 - one["without_augmentation_ms"] / one["ours_ms"]
    formats = ", ".join(f"{name} {value:.1f}" for name, value in one["bare_ms_by_format"].items())
    yield (
        f"{one['net']} b{one['batch']}: ours {one['ours_ms']:.2f} ms, bare {one['bare_ms']:.2f} ms "
        f"({formats}): ratio {one['ratio']:.3f}; {one['images_per_second']:.0f} images/s; "
        f"loader {loader:.1%}, waited {one['waited_for_batches']:.1%}; "
        f"augmentation {augmented:.1%}; peak ours/bare {peak} GiB"
    )


def _halving(one: dict[str, Any]) -> Iterator[str]:
    whole, halved = one["peak_gib"]
    yield (
        f"{one['net']} b{one['batch']} {one['precision']}: {whole:.1f} -> {halved:.1f} GiB, in parts of "
        f"{one['micro_batch']}; gradient differs by {one['difference']:.1e} (two alike: "
        f"{one['difference_of_two_alike']:.1e}; by the precision itself: {one['rounding']:.1e})"
    )


def _probe(one: dict[str, Any]) -> Iterator[str]:
    yield f"{one['net']} b{one['batch']}: {one.get('sentence', 'no GPU')} ({one.get('seconds', 0):.0f} s)"


def _workers(one: dict[str, Any]) -> Iterator[str]:
    memory = f"; {one['gib_each']:.2f} GiB each" if "gib_each" in one else ""
    rate = f"{one['workers']} workers {one['images_per_second']:.0f} images/s"
    yield f"{one['net']} b{one['batch']}: {rate}{memory}"


def _run(one: dict[str, Any]) -> Iterator[str]:
    yield f"exit code {one['rc']}, finished {one['finished']}, {one['seconds']:.0f} s; {one['sharing']}"
    yield f"rounds: {one['rounds']}"


def _compile(one: dict[str, Any]) -> Iterator[str]:
    pays = "never" if one["steps_to_pay"] is None else f"after {one['steps_to_pay']:.0f} steps"
    yield (
        f"{one['net']} b{one['batch']}: {one['eager_ms']:.2f} -> {one['compiled_ms']:.2f} ms "
        f"({one['speed_up']:.2f}x), compiling {one['compile_s']:.0f} s, pays {pays}"
    )


_ROWS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "tests": _tests,
    "steps": _steps,
    "halving": _halving,
    "probe": _probe,
    "workers": _workers,
    "run": _run,
    "compile": _compile,
}
