"""``fedderm explain``: pictures, a page that asks for nothing, and what cannot be read."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import clinic, fedderm
from PIL import Image
from test_predict import trained

from fedderm.explanation import overlay, prefixes

pytest.importorskip("pytorch_grad_cam")

VIT: dict[str, Any] = {"backbone": "test_vit", "image_size": 160}


def test_pictures_and_page_say_what_predict_says(tmp_path: Path) -> None:
    photos = clinic(tmp_path, rows=3, malignant=1, size=150)
    (photos / "i0.png").rename(photos / "<i>0 & co.png")
    run = trained(tmp_path, views=4, **VIT).path
    told = fedderm("explain", run, photos, "--to", tmp_path / "out")
    assert told.code == 0, told
    assert f"3 explained: {tmp_path / 'out' / 'index.html'}" in told.out
    lines = [json.loads(line) for line in fedderm("predict", run, photos, "--json").out.splitlines()]
    page = (tmp_path / "out" / "index.html").read_text()
    assert "&lt;i&gt;0 &amp; co.png" in page
    assert "<i>0" not in page
    assert not re.search(r'(?:src|href)="(?!data:)', page), "nothing is asked for"
    assert not re.search(r"url\((?!data:)|@import|<script", page)
    for line in lines:
        likeliest = next(iter(line["differential"]))
        assert f"P(malignant) {line['probability']:.3f}" in page
        stem = Path(line["image"]).stem
        names = ("image", "malignant", likeliest, "attention-rollout")
        sizes = {Image.open(tmp_path / "out" / f"{stem}.{name}.png").size for name in names}
        assert sizes == {(384, 384)}
    assert page.count("<img ") == 3 * 4


def test_a_benign_image_has_no_class_to_explain(tmp_path: Path) -> None:
    photos = clinic(tmp_path, rows=1, malignant=1, size=100)
    run = trained(tmp_path).path
    told = fedderm("explain", run, photos, "--to", tmp_path / "out", "--site", "coast")
    assert told.code == 0, told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "i0.image.png", "i0.malignant.png", "index.html"
    ]  # fmt: skip
    page = (tmp_path / "out" / "index.html").read_text()
    assert "the threshold of coast" in page
    assert "Coast&#39;s own [sic]." in page


def test_what_cannot_be_read_is_named_and_does_not_stop_the_others(tmp_path: Path) -> None:
    photos = clinic(tmp_path, rows=2, malignant=1, size=100)
    (photos / "i0.png").write_bytes(b"no image")
    run = trained(tmp_path).path
    told = fedderm("explain", run, photos, "--to", tmp_path / "out")
    assert told.code == 2
    assert "i0.png" in told.err
    assert "1 explained" in told.out
    again = fedderm("explain", run, photos, "--to", tmp_path / "out").sentence()
    assert "holds something already" in again


def test_names_of_files_never_meet() -> None:
    images = [Path(one) for one in ("a/x.png", "b/x.jpg", "x-2.png", "c/X.png")]
    assert list(prefixes(images)) == ["x", "x-2", "x-2-2", "X-3"]


def test_an_overlay_leaves_what_is_cold() -> None:
    pixels = np.full((40, 40, 3), 120, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    np.testing.assert_array_equal(overlay(pixels, heat), pixels)
    heat[:2, :2] = 1
    found = overlay(pixels, heat)
    assert (found[30:, 30:] == 120).all()
    np.testing.assert_allclose(found[2, 2], 120 * 0.35 + 0.65 * np.array([253, 231, 37]), atol=1)
