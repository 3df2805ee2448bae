"""A hostile coordinator over real Flower processes: its code does not run at a hospital, and its questions
beyond the policy are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from federations import write_config
from flower_processes import Flower, free_port
from hospitals import Hospital

from fedderm import __version__

APP = Path(__file__).resolve().parent / "hostile_app"
ROOT = APP.parents[1]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_coordinators_code_does_not_run_at_a_hospital(flower: Flower, root: Path, tmp_path: Path) -> None:
    """Two nodes with the same validate-only site: one started as Flower has it, one as ``fedderm deploy``.

    The first gives its site file away: the danger is there. The second answers with fedderm's card, once, and
    refuses the rest, and its log has all of it.
    """
    flower.environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    config = write_config(root)
    naive, careful = (Hospital(root, tmp_path / name, "away") for name in ("naive", "careful"))
    flower.start()
    flower.node(f'site="{naive.file}"')
    guarded_node(flower, careful, tmp_path)
    out = tmp_path / "out.json"
    done = flower.run(APP, f'config="{config}" out="{out}"')
    assert out.is_file(), done.stdout + done.stderr + (flower.home / "supernodes.log").read_text()
    answers = sorted(json.loads(out.read_text()), key=lambda words: "stolen" not in words[0])
    assert len(answers[0]) == 1
    assert "stolen" in answers[0][0]
    assert "role: held-out" in answers[0][0]
    assert not naive.record.folder.exists()
    assert len(answers[1]) == 4
    refusals = "\n".join(one for one in answers[1] if one.startswith("error"))
    assert "stolen" not in "".join(answers[1])
    assert sum(one.startswith("card: ") for one in answers[1]) == 1
    assert f"site away runs fedderm {__version__} and the server 9.9.9" in refusals
    assert "site away is held out: it refuses to train" in refusals
    assert "asked to count the splits train" in refusals
    told = sorted((one["what"], one["exchange"]) for one in careful.log())
    assert told == [("refused", "evaluate"), ("refused", "query"), ("refused", "train"), ("sent", "query")]


def guarded_node(flower: Flower, hospital: Hospital, folder: Path) -> None:
    """Start a SuperNode whose messages fedderm's own process answers, as ``fedderm deploy`` does."""
    secret, port = folder / "secret", free_port()
    secret.write_bytes(os.urandom(32))
    where = ["--insecure", "--superlink", f"127.0.0.1:{flower.port}", "--port", str(port)]
    how = ["--isolation", "process", "--superexec-auth-secret-file", str(secret)]
    node_config = f'site="{hospital.file}"'
    code = (
        "from pathlib import Path\n"
        "from fedderm.deploy.site_process import answer_messages\n"
        "if __name__ == '__main__':\n"
        f"    answer_messages('127.0.0.1:{port}', Path({str(secret)!r}).read_bytes(), lambda: False)\n"
    )
    (folder / "answering.py").write_text(code)
    with (flower.home / "supernodes.log").open("a") as log:
        for command in (
            ["flower-supernode", *where, *how, "--node-config", node_config],
            [sys.executable, str(folder / "answering.py")],
        ):
            subprocess.Popen(command, env=flower.environment, stdout=log, stderr=subprocess.STDOUT)
