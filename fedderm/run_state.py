"""``rounds/state.json``: which rounds have finished, what each took, and what a resumed run needs to know."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from fedderm.whole_file import whole


class RunState:
    """The state of a run on disk, read again only where somebody has written it since.

    It holds every round of every site: a long run with many of them would otherwise spend more of each round
    on reading what it has just written than on the models.
    """

    def __init__(self, path: Path, planned: int) -> None:
        """``planned``: the rounds of the run's experiment."""
        self.path, self._planned = path, planned
        self._read: tuple[tuple[int, ...], dict[str, Any]] | None = None
        self._lines: list[tuple[Any, str]] = []
        """The rounds of the history, and each as JSON."""

    def read(self) -> dict[str, Any]:
        """Return the state after the last finished round; round 0 where none has finished.

        What is in it must not be changed. Raises ValueError where the file is damaged or belongs to another
        config.
        """
        if not self.path.is_file():
            return {"round": 0, "rounds": self._planned, "finished": False, "history": []}
        version = _version(self.path)
        if self._read is None or self._read[0] != version:
            self._read = version, self._checked(self.path.read_bytes())
        return dict(self._read[1])

    def write(self, state: dict[str, Any]) -> None:
        """Write the state in one step, a round a line: a reader sees the old one or the new one, whole."""
        written = {id(entry): (entry, line) for entry, line in self._lines}
        self._lines = [written.get(id(entry)) or (entry, _json(entry)) for entry in state["history"]]
        rounds = ",\n".join(line for _, line in self._lines)
        lines = [
            f"{_json(key)}: [\n{rounds}\n]"
            if key == "history" and rounds
            else f"{_json(key)}: {_json(value)}"
            for key, value in state.items()
        ]
        with whole(self.path) as temporary:
            temporary.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
            version = _version(temporary)
        self._read = version, dict(state)

    def _checked(self, content: bytes) -> dict[str, Any]:
        try:
            found = json.loads(content)
            _State.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise damaged(self.path, f"{where or 'the whole'}: {first['msg']}") from error
        except ValueError as error:
            raise damaged(self.path, str(error)) from error
        if found["round"] > self._planned:
            raise damaged(
                self.path, f"{found['round']} rounds have ended but config.yaml plans {self._planned}"
            )
        return dict(found)


def _version(path: Path) -> tuple[int, ...]:
    """Return what tells a file from one that takes its place."""
    about = path.stat()
    return about.st_ino, about.st_mtime_ns, about.st_size


def damaged(path: Path, found: str) -> ValueError:
    """Return the error of a run's file that cannot be used, and what to do."""
    return ValueError(
        f"{path}: is damaged ({found}); copy the run's folder again, or start the experiment anew"
    )


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


class _Entry(BaseModel):
    """A finished round; what else it holds is for the report."""

    round: Annotated[int, Field(ge=1)]


class _State(BaseModel):
    """What the file must hold to go on from it."""

    round: Annotated[int, Field(ge=0)]
    finished: bool
    history: list[_Entry]
