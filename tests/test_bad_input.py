"""Whatever a person gets wrong ends in exit code 2 and one sentence that names it; nothing is lost."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import clinic, fedderm, process, write_config
from full_disk import files_of_at_most
from PIL import Image

from fedderm import config, runtime
from fedderm.runs import RunFolder


def edit_table(folder: Path, change: Callable[[str], str]) -> None:
    table = folder / "table.csv"
    table.write_text(change(table.read_text()), encoding="utf-8")


@pytest.mark.parametrize(
    ("command", "old", "new", "expected"),
    [
        (("sites", "list"), "rounds:", "rouns:", "rouns: no such key (did you mean rounds?)"),
        (("sites", "audit"), "rounds: 1", "rounds: one", 'rounds: expected a whole number; found "one"'),
        (("sites", "doctor"), "rounds: 1", "training: {learning_rate: 1e-3}", "YAML reads 1e-3 as text"),
        (("run",), "rounds: 1", "rounds: [", "is not valid YAML"),
    ],
)
def test_a_wrong_config(tmp_path: Path, command: tuple[str, ...], old: str, new: str, expected: str) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace(old, new))
    assert expected in fedderm(*command, path).sentence()


def test_a_config_that_is_a_folder_empty_or_binary(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    assert "Is a directory" in fedderm("run", tmp_path).sentence()
    assert "is empty" in fedderm("run", tmp_path / "empty.yaml").sentence()
    assert "is not UTF-8 text" in fedderm("run", tmp_path / "binary.yaml").sentence()
    assert "give a config" in fedderm("run").sentence()


def test_missing_data_root(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    told = fedderm("sites", "list", path, "--data-root", tmp_path / "gone").sentence()
    assert f"the data root {tmp_path / 'gone'} is not a folder" in told
    told = fedderm("sites", "list", path).sentence()
    assert f"site 'clinic': the folder {tmp_path / 'clinic'} does not exist" in told
    path.write_text(path.read_text().replace(f"data_root: {tmp_path}\n", ""))
    assert (
        "is relative and no data root was given; pass --data-root"
        in fedderm("sites", "list", path).sentence()
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda text: text.replace("diagnosis", "dignosis", 1),
            "expected the column 'diagnosis' for diagnosis; the nearest is 'dig",
        ),
        (lambda text: text.replace("i5,L5,nv", "i5,L5,naevus"), "row 7, column 'diagnosis': 'naevus'"),
        (lambda text: text.replace("i5,L5,nv", "i4,L5,nv"), "the image id 'i4' is in rows 6 and 7"),
        (lambda text: text.replace("i5,", ",", 1), "row 7, column 'image_id' is blank"),
        (lambda text: text.split("\n")[0], "has no rows below its header"),
        (lambda _: "", " is empty; expected a row of column names"),
        (lambda text: text.replace("i5,L5,nv", "i5,L5,nv,x"), "row 7 has 4 cells and those above it 3"),
    ],
)
def test_a_wrong_table_is_named_with_file_row_and_column(
    tmp_path: Path, change: Callable[[str], str], expected: str
) -> None:
    edit_table(clinic(tmp_path), change)
    told = fedderm("sites", "list", write_config(tmp_path)).sentence()
    assert told.startswith(f"site 'clinic': {tmp_path / 'clinic' / 'table.csv'}")
    assert expected in told


def test_metadata_of_an_archive_without_a_needed_column(tmp_path: Path) -> None:
    (tmp_path / "ham10000").mkdir()
    (tmp_path / "ham10000" / "HAM10000_metadata").write_text("lesion_id,image_id,age\nL1,I1,40\n")
    path = write_config(tmp_path, {"source": "ham10000", "path": "ham10000"})
    told = fedderm("sites", "list", path).sentence()
    assert "HAM10000_metadata: the column 'dx' is missing" in told


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (
            lambda image: image.unlink(),
            "1 of 12 images are missing (8.3%, max_unreadable allows 5.0%); the first is i0, looked for",
        ),
        (lambda image: image.write_bytes(b""), "i0.png: the file is empty (0 bytes)"),
        (lambda image: image.write_bytes(image.read_bytes()[:900]), "i0.png: truncated or damaged"),
        (lambda image: image.write_text("not pixels"), "i0.png: not an image"),
    ],
)
def test_unreadable_images_stop_a_site_or_are_set_aside_by_name(
    tmp_path: Path, spoil: Callable[[Path], object], expected: str
) -> None:
    spoil(clinic(tmp_path) / "i0.png")
    assert expected in fedderm("sites", "audit", write_config(tmp_path)).sentence()
    lenient = write_config(tmp_path, {"max_unreadable": 0.2})
    passed = fedderm("sites", "audit", lenient)
    assert passed.code == 0, passed.err
    assert "audit: 11 images of 11 lesions" in passed.out or "audit: 12 images" in passed.out
    told = fedderm("sites", "doctor", lenient)
    assert told.code == 0
    assert "image i0 is set aside" in told.out


def test_one_blank_lesion_id_is_told_once_and_in_the_singular(tmp_path: Path) -> None:
    folder = clinic(tmp_path)
    edit_table(folder, lambda text: text.replace("i5,L5,nv", "i5,,nv").replace("i6,L6,nv", "i6,L6,"))
    told = fedderm("sites", "doctor", write_config(tmp_path)).out
    assert "1 of 11 images has no lesion id and counts as a lesion of its own" in told
    assert "no lesion ids" not in told, "the others have one"
    assert "1 image was set aside: no diagnosis" in told
    assert " 1 images" not in told
    assert "1 malignant lesions" not in told
    edit_table(folder, lambda text: text.replace("lesion_id", "nothing"))
    assert "no lesion ids: where a lesion was" in fedderm("sites", "doctor", write_config(tmp_path)).out


def test_unusual_images_are_used(tmp_path: Path) -> None:
    folder = clinic(tmp_path)
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert("CMYK").save(folder / "a.jpg")
    Image.fromarray(rng.integers(0, 65536, (30, 40), dtype=np.uint16)).save(folder / "b.png")
    Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(folder / "c.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(folder / "d.jpg", exif=turned)
    edit_table(folder, lambda text: text + "a,La,nv\nb,Lb,nv\nc,Lc,mel\nd,Ld,nv\n")
    told = fedderm("sites", "doctor", write_config(tmp_path))
    assert told.code == 0, told.err
    assert "16 images decoded at 32 pixels" in told.out


@pytest.mark.parametrize(
    ("rows", "malignant", "expected"),
    [
        (12, 0, "all 8 images of the train split are benign, and a model cannot be trained on one class"),
        (12, 12, "images of the train split are malignant, and a model cannot be trained on one class"),
        (2, 1, "it has 2 separate lesions or patients, fewer than its splits (train, calibration, test)"),
    ],
)
def test_a_site_that_cannot_train(tmp_path: Path, rows: int, malignant: int, expected: str) -> None:
    clinic(tmp_path, rows, malignant)
    path = write_config(tmp_path)
    assert expected in fedderm("sites", "list", path).sentence()
    assert expected in fedderm("run", path).sentence()
    doctor = fedderm("sites", "doctor", path)
    assert doctor.code == 2
    assert "stops site 'clinic': " in doctor.out
    assert expected in doctor.out


def test_no_gpu_where_one_was_asked_for(tmp_path: Path) -> None:
    if runtime.gpus():
        pytest.skip("there is a GPU here")
    clinic(tmp_path)
    path = write_config(tmp_path, resources={"gpus_per_site": 0.5})
    told = fedderm("run", path).sentence()
    assert told.startswith("resources.gpus_per_site is 0.5 but this machine offers none")
    doctor = fedderm("sites", "doctor", path)
    assert doctor.code == 2
    assert "stops resources.gpus_per_site is 0.5 but there are 0 GPUs here" in doctor.out


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("strategy={name: fedadam, parameters: {etta: 0.1}}", "no parameter etta; did you mean eta?"),
        ("strategy={name: krum, parameters: {num_nodes: 1}}", "strategy krum has no parameter num_nodes"),
        ("strategy.name=fedproxx", "there is no strategy fedproxx; did you mean fedprox?"),
        ("model.backbone=resnet99", "model.backbone: timm has no model resnet99; did you mean resnet"),
        ("model={backbone: resnet18}", "model.pretrained: no package holds weights for resnet18"),
        ("model.pretrained=/absent.pth", "model.pretrained: /absent.pth is no file"),
        ("resources.gpus_per_site=99", "resources.gpus_per_site is 99 but this machine offers"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_before_anything_starts(
    tmp_path: Path, setting: str, expected: str
) -> None:
    """There are no images either: whoever looked for them first would complain of that."""
    assert expected in fedderm("run", write_config(tmp_path), "--set", setting).sentence()
    assert not (tmp_path / "runs").exists()


def test_the_same_lesions_at_two_sites(tmp_path: Path) -> None:
    clinic(tmp_path)
    one = {"name": "one", "source": "folder", "path": "clinic"}
    path = write_config(tmp_path, sites=[one, {**one, "name": "two"}])
    assert "gives_way_to" in fedderm("sites", "audit", path).sentence()


@pytest.mark.parametrize("key", ["runs_dir", "work_dir"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, key: str) -> None:
    clinic(tmp_path)
    (tmp_path / "file").touch()
    told = fedderm("run", write_config(tmp_path), "--set", f"{key}={tmp_path / 'file' / 'below'}").sentence()
    assert str(tmp_path / "file" / "below") in told


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the system refuses to write on, in the same way."""
    clinic(tmp_path, rows=40)
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"
    told = process("sites", "audit", write_config(tmp_path), cwd=tmp_path, before=limit).sentence()
    assert "the disk became full" in told
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert fedderm("sites", "audit", write_config(tmp_path)).code == 0


def test_a_disk_that_fills_while_a_round_is_written_keeps_the_round_before(tmp_path: Path) -> None:
    folder = RunFolder.create(config.load(write_config(tmp_path), ["rounds=2"]))
    first = {"w": np.zeros(3)}
    folder.finish_round(1, first, {}, [])
    with files_of_at_most(50_000), pytest.raises(OSError, match="File too large"):
        folder.finish_round(2, {"w": np.ones(100_000)}, {}, [])
    assert RunFolder.open(folder.path).state()["round"] == 1
    latest = folder.latest_arrays()
    assert latest is not None
    assert (latest["w"] == first["w"]).all()
    assert not list((folder.path / "rounds").glob(".*")), "nothing half-written stays"


def unfinished(root: Path) -> RunFolder:
    """Return a run after its first of two rounds."""
    folder = RunFolder.create(config.load(write_config(root), ["rounds=2"]))
    folder.finish_round(1, {"w": np.zeros(3)}, {}, [])
    return folder


def test_report_of_an_unfinished_run(tmp_path: Path) -> None:
    folder = unfinished(tmp_path)
    told = fedderm("report", folder.path).sentence()
    assert "is unfinished: 1 of 2 rounds have ended" in told
    assert f"fedderm run --resume {folder.path}" in told
    assert not (folder.path / "report.html").exists()


def test_resume_of_what_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", write_config(tmp_path)):
        assert (
            f"{path}: is no run folder (it has no config.yaml)" in fedderm("run", "--resume", path).sentence()
        )
    path = unfinished(tmp_path).path
    told = fedderm("run", tmp_path / "c.yaml", "--resume", path, "--set", "rounds=3").sentence()
    assert "--resume goes on with the run's own config" in told


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("config.yaml", "", "config.yaml: is empty"),
        ("config.yaml", "name: x\n", "config.yaml: sites: is missing"),
        ("rounds/state.json", "", "state.json: is damaged"),
        ("rounds/state.json", '{"round": 1', "state.json: is damaged"),
        ("rounds/state.json", "[]", "state.json: is damaged (the whole: Input should be a valid dictionary"),
        ("rounds/state.json", "{}", "state.json: is damaged (round: Field required)"),
        (
            "rounds/state.json",
            '{"round": 9, "finished": false, "history": []}',
            "9 rounds have ended but config.yaml plans 2",
        ),
        (
            "rounds/state.json",
            '{"round": -1, "finished": false, "history": []}',
            "state.json: is damaged (round: ",
        ),
        ("rounds/0001.safetensors", "", "0001.safetensors: is not a readable safetensors file"),
        ("rounds/0001.safetensors", None, "0001.safetensors: no such file of weights"),
        ("rounds/metrics.csv", "", "metrics.csv: is damaged"),
        ("rounds/metrics.csv", "a,b\n1,2\n", "metrics.csv: is damaged ('round')"),
        ("rounds/metrics.csv", "site,round\nx,one\n", "metrics.csv: is damaged"),
    ],
)
def test_resume_of_a_damaged_run(tmp_path: Path, file: str, content: str | None, expected: str) -> None:
    folder = unfinished(tmp_path)
    (folder.path / file).unlink()
    if content is not None:
        (folder.path / file).write_text(content)
    assert expected in fedderm("run", "--resume", folder.path).sentence()
