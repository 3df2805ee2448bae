"""A hospital's site file: read as it lies, or refused in one sentence."""

from pathlib import Path

import pytest
import yaml

from fedderm.site_file import read_home, read_site_file

SALT = "a salt of sixteen or more"


def test_a_site_files_relative_path_starts_at_the_file(tmp_path: Path) -> None:
    for path, expected in (("images", tmp_path / "images"), ("/elsewhere", Path("/elsewhere"))):
        (tmp_path / "site.yaml").write_text(yaml.safe_dump({"name": "w", "source": "folder", "path": path}))
        assert read_site_file(tmp_path / "site.yaml").path == expected


def test_a_place_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("{name: w, source: simulated, work_dir: 3}")
    with pytest.raises(ValueError, match=r"site\.yaml: work_dir: expected a path; found 3"):
        read_home(tmp_path / "site.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, r"site\.yaml: the site file cannot be read \(No such file"),
        ("", r"site\.yaml: is empty; expected a site file"),
        ("name: w\nmin_cell: 10\nmin_cell: 1", r"site\.yaml: line 3: the key min_cell stands twice"),
        ("name: [", r"site\.yaml: is not valid YAML"),
        (
            "{name: w, source: simulatd}",
            r"site\.w\.source: expected one of .*found simulatd \(did you mean simulated",
        ),
        ("{name: w}", r"site\.w\.source: expected one of "),
        ("{name: w, source: simulated, rol: train}", r"site\.w\.rol: no such key \(did you mean role\?\)"),
        ("{name: w, source: simulated, lesions: many}", r"site\.w\.lesions: expected .*found \"many\""),
        (
            "{name: w, source: simulated, polcy: {}}",
            r"did you mean policy\?\); valid here: .*data_root.*work_dir",
        ),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_a_site_file_that_cannot_be_used_is_a_sentence(
    tmp_path: Path, text: str | bytes | None, expected: str
) -> None:
    file = tmp_path / "site.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=expected) as caught:
        read_site_file(file)
    assert "\n" not in str(caught.value)
