"""Planted leaks are found, unlike pictures are not, and what gives way is what the config says."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter
from site_images import lesion_image, site_data

from sites.audit import AuditRefused, audit, given_up, overlaps, resolve, salted_fingerprints
from sites.cache import PixelSettings, open_cache
from sites.catalogue import Site, SiteData, load_site
from sites.duplicates import near_pairs
from sites.errors import SiteError
from sites.images import content_hash, perceptual_fingerprint
from sites.table import validate

SALT = "0123456789abcdef"


def prints(data: SiteData, images: Sequence[NDArray[np.uint8]]) -> pd.DataFrame:
    """Return the fingerprints of a site whose images are given as pixels."""
    columns = {"image_id": data.table["image_id"], "content": [content_hash(i) for i in images]}
    return pd.DataFrame({**columns, "perceptual": [perceptual_fingerprint(i).tobytes() for i in images]})


def made(name: str, ids: Sequence[str], columns: dict[str, Any] | None = None, **settings: Any) -> SiteData:
    """Return a site whose images are never opened."""
    return site_data(Path("/data"), name, [Path(f"/data/{i}.png") for i in ids], columns=columns, **settings)


def test_nothing_shared_nothing_found() -> None:
    result = audit([made("a", ["1", "2"]), made("b", ["3", "4"])], {})
    assert result.conflicts == ()
    assert result.sites["a"].model_dump() == {"images": 2, "lesions": 2, "pixels": 0}
    assert given_up([made("a", ["1"]), made("b", ["3"])], result) == {"a": frozenset(), "b": frozenset()}


def test_images_of_one_lesion_in_one_split_are_no_conflict() -> None:
    assert audit([made("a", ["1", "2"], {"lesion_id": "L", "patient_id": "P"})], {}).conflicts == ()


@pytest.mark.parametrize(("column", "kind"), [("lesion_id", "lesion"), ("patient_id", "patient")])
def test_same_lesion_or_patient_in_two_splits_and_at_two_sites(column: str, kind: str) -> None:
    one = made("a", ["1", "2", "3"], {column: ["X", "X", "Y"], "split": ["train", "test", "train"]})
    two = made("b", ["4"], {column: ["X"]})
    result = audit([one, two], {})
    assert result.counts() == {f"{kind}: a": 1, f"{kind}: a, b": 2}
    with pytest.raises(AuditRefused, match=rf"3 overlaps .*3 by {kind}") as caught:
        resolve([one, two], result)
    assert "'gives_way_to: [b]' in site a" in str(caught.value)
    assert "'gives_way_to: [a]' in site a to drop the copies" in str(caught.value)


@pytest.mark.parametrize("other", ["ISIC_0000001", "ISIC_0000001_downsampled", "ISIC_0000001.JPG"])
def test_image_id_is_recognised_under_its_variants(other: str) -> None:
    result = audit([made("a", ["ISIC_0000001"]), made("b", [other, "ISIC_00000010"])], {})
    assert [(c.kind, c.value) for c in result.conflicts] == [("image", "ISIC_0000001")]


def test_identical_pixels_under_other_ids() -> None:
    one, two = made("a", ["1"]), made("b", ["2", "3"])
    images = [lesion_image(1), lesion_image(2)]
    result = audit([one, two], {"a": prints(one, images[:1]), "b": prints(two, images[::-1])})
    assert result.counts() == {"identical pixels: a, b": 1}
    assert result.conflicts[0].second.images == ("3",)


def test_images_that_were_given_up_are_in_nobodys_way() -> None:
    one, two = made("a", ["1", "2"], {"split": [None, "train"]}), made("b", ["1"])
    assert audit([one, two], {}).conflicts == ()
    assert overlaps({d.site.name: salted(d) for d in (one, two)}) == []


def salted(data: SiteData) -> dict[str, list[str]]:
    """Return a site's salted ids, with no fingerprint of pixels."""
    return salted_fingerprints(data.table, pd.DataFrame({"image_id": [], "content": []}), SALT)


def copies(image: NDArray[np.uint8], rng: np.random.Generator) -> dict[str, NDArray[np.uint8]]:
    """Return what becomes of a picture on its way from one hospital to another."""
    picture = Image.fromarray(image)
    width, height = picture.size
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=40)
    left, top = rng.uniform(0, 0.03, 2) * (width, height)
    part = (left, top, left + 0.97 * width, top + 0.97 * height)
    return {
        "jpeg": np.asarray(Image.open(file)),
        "half": np.asarray(picture.resize((width // 2, height // 2), Image.Resampling.LANCZOS)),
        "cropped": np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=part)),
        "brighter": np.clip(image * 1.15 + 5, 0, 255).astype(np.uint8),
    }


def test_copies_are_near_and_other_lesions_are_not() -> None:
    originals = [lesion_image(seed) for seed in range(40)]
    rng = np.random.default_rng(5)
    for number in range(4):
        made_of = copies(originals[number], rng)
        fingerprints = np.stack([perceptual_fingerprint(i) for i in (*originals, *made_of.values())])
        # Originals lie in one place, copies in another.
        place = np.array([0] * len(originals) + [1] * len(made_of))
        pairs, scores = near_pairs(fingerprints, [place])
        assert pairs.tolist() == [[number, len(originals) + n] for n in range(len(made_of))]
        assert (scores <= 1.0001).all()


def test_pairs_of_one_code_are_skipped_and_featureless_images_match_nothing() -> None:
    blank = np.full((3, 64, 64), 200, np.uint8)
    assert len(near_pairs(blank, [np.arange(3)])[0]) == 0
    same = np.stack([perceptual_fingerprint(lesion_image(1))] * 3)
    assert near_pairs(same, [np.array([0, 1, 1])])[0].tolist() == [[0, 1], [0, 2]]
    assert len(near_pairs(same, [np.arange(3), np.array([7, 7, 7])])[0]) == 0
    assert len(near_pairs(same[:1], [np.arange(1)])[0]) == 0


def test_blocks_do_not_change_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [lesion_image(seed) for seed in range(30)]
    images += [copies(image, np.random.default_rng(0))["cropped"] for image in images]
    fingerprints = np.stack([perceptual_fingerprint(image) for image in images])
    whole = near_pairs(fingerprints, [np.arange(60)])
    monkeypatch.setattr("sites.duplicates._BLOCK", 24)
    blocks = near_pairs(fingerprints, [np.arange(60)])
    assert sorted(whole[0].tolist()) == sorted(blocks[0].tolist()) == [[n, n + 30] for n in range(30)]
    np.testing.assert_allclose(np.sort(whole[1]), np.sort(blocks[1]), rtol=1e-5)


def test_site_gives_way_with_all_images_of_the_lesion() -> None:
    """The lesion's second image is not shared, but goes too: a site without it cannot leak it."""
    one = made("a", ["1", "2", "3"], {"lesion_id": ["X", "X", "Y"]}, gives_way_to=["b"])
    two = made("b", ["1"], {"lesion_id": ["other"]})
    result = audit([one, two], {})
    (kept, untouched), removed = resolve([one, two], result)
    assert removed == {"a": 2, "b": 0}
    assert kept.table["image_id"].tolist() == ["3"]
    assert kept.table.index.tolist() == [0]
    assert kept.notes == ["2 of 3 images were given up to another site or split"]
    assert untouched is two
    assert audit([kept, untouched], {}).conflicts == ()


def test_shared_patient_takes_all_lesions_along() -> None:
    columns = {"patient_id": ["P", "P", "Q"]}
    one, two = (
        made("a", ["1", "2", "3"], columns, gives_way_to=["b"]),
        made("b", ["4"], {"patient_id": ["P"]}),
    )
    assert given_up([one, two], audit([one, two], {}))["a"] == {"1", "2"}


def test_within_a_site_the_split_that_measures_keeps_its_copy() -> None:
    order = ["test", "train", "calibration"]
    own = made(
        "a", ["1", "2", "3", "4"], {"lesion_id": [*"XXXY"], "split": [*order, "train"]}, gives_way_to=["a"]
    )
    (kept,), removed = resolve([own], audit([own], {}))
    assert removed == {"a": 2}
    assert kept.table["image_id"].tolist() == ["1", "4"]


def test_giving_way_to_one_site_does_not_settle_another() -> None:
    shared = {"lesion_id": ["X", "own"]}
    one = made("a", ["1", "2"], shared, gives_way_to=["b"])
    two, three = (
        made("b", ["3", "4"], {"lesion_id": ["X", "b"]}),
        made("c", ["5", "6"], {"lesion_id": ["X", "c"]}),
    )
    sites = [one, two, three]
    with pytest.raises(AuditRefused, match="b and c: 1") as caught:
        resolve(sites, audit(sites, {}))
    # Site a's copy is gone, so that only one overlap is left.
    assert "found 1 overlaps" in str(caught.value)


def test_published_split_that_reports_its_leak_is_let_through() -> None:
    own = made("a", ["1", "2"], {"lesion_id": "X", "split": ["train", "test"]})
    with pytest.raises(AuditRefused):
        resolve([own], audit([own], {}))
    own.table.attrs["published_leak"] = {"leaked": 1, "test_images": 1}
    result = audit([own], {})
    assert resolve([own], result)[1] == {"a": 0}
    assert result.document()["conflicts"] == {"lesion: a": 1}


def test_settings_that_cannot_be_followed() -> None:
    one, two = made("first", ["1"], gives_way_to=["secnod"]), made("second", ["2"])
    with pytest.raises(SiteError, match=r"'secnod', which is no site .*nearest is 'second'"):
        resolve([one, two], audit([one, two], {}))
    two = made("second", ["2"], gives_way_to=["third"])
    three = made("third", ["3"], gives_way_to=["first"])
    sites = [made("first", ["1"], gives_way_to=["second"]), two, three]
    with pytest.raises(SiteError, match="in a circle"):
        resolve(sites, audit(sites, {}))
    sites = [made("first", ["1"], gives_way_to=["second"]), made("second", ["1"])]
    with pytest.raises(SiteError, match="would give up all of its 1 images"):
        resolve(sites, audit(sites, {}))
    with pytest.raises(SiteError, match="two sites are named 'a'"):
        audit([made("a", ["1"]), made("a", ["2"])], {})


def test_document_is_json_and_names_places() -> None:
    document = audit([made("a", ["1"]), made("b", ["1"])], {}).document()
    assert document["first"] == ["image 1: 1 (lesion a-1) in a/train and 1 (lesion b-1) in b/train"]
    assert TypeAdapter(dict[str, Any]).dump_json(document)


def test_salted_fingerprints_meet_only_under_one_salt() -> None:
    one = made("a", ["1", "2"], {"lesion_id": ["X", "X"], "patient_id": ["P", None]})
    two = made("b", ["2.jpg", "3"], {"lesion_id": ["X", "Y"]})
    card = salted_fingerprints(one.table, prints(one, [lesion_image(1), lesion_image(2)]), SALT)
    assert {kind: len(values) for kind, values in card.items()} == {
        "image": 2,
        "lesion": 1,
        "patient": 1,
        "content": 2,
    }
    assert all(len(value) == 32 and values == sorted(values) for values in card.values() for value in values)
    other = salted_fingerprints(two.table, prints(two, [lesion_image(2), lesion_image(3)]), SALT)
    assert [str(found) for found in overlaps({"a": card, "b": other})] == [
        "a and b share 1 image ids",
        "a and b share 1 lesion ids",
        "a and b share 1 identical images",
    ]
    elsewhere = salted_fingerprints(two.table, prints(two, [lesion_image(2), lesion_image(3)]), SALT[::-1])
    assert overlaps({"a": card, "b": elsewhere}) == []
    with pytest.raises(SiteError, match="salt has 5 characters"):
        salted_fingerprints(one.table, prints(one, [lesion_image(1)] * 2), "short")


def real(shared_data: Path, work: Path, **settings: Any) -> SiteData:
    """Return a site of the real data."""
    return load_site(TypeAdapter[Any](Site).validate_python(settings), shared_data, work, seed=2026)


def listed(shared_data: Path, work: Path, source: str, **settings: Any) -> SiteData:
    """Return all rows of a source's official tables, all in test, whether or not the images are at hand."""
    site = TypeAdapter[Any](Site).validate_python({"name": source, "source": source, **settings})
    table = validate(site.read(shared_data, work, 0), source).assign(split="test", class_index=0)
    return SiteData(site, table, table.iloc[:0])


@pytest.mark.slow
def test_ham10000_beside_isic2019_is_caught(shared_data: Path, tmp_path: Path) -> None:
    """ISIC 2019 holds all 10,015 images and 7,470 lesions of HAM10000 under the same ids."""
    ham = listed(shared_data, tmp_path, "ham10000")
    isic = listed(shared_data, tmp_path, "isic2019")
    result = audit([ham, isic], {})
    assert result.counts() == {"image: ham10000, isic2019": 10_015, "lesion: ham10000, isic2019": 7_470}
    with pytest.raises(AuditRefused, match=r"17485 overlaps .*10015 by image, 7470 by lesion"):
        resolve([ham, isic], result)
    polite = replace(isic, site=isic.site.model_copy(update={"gives_way_to": ["ham10000"]}))
    kept, removed = resolve([ham, polite], result)
    assert removed == {"ham10000": 0, "isic2019": 10_015}
    assert len(kept[1].table) == 25_331 - 10_015


@pytest.mark.slow
def test_nine_lesions_of_ham10000_span_two_sources(shared_data: Path, tmp_path: Path) -> None:
    names = ["vidir_modern", "vidir_molemax", "rosendahl", "vienna_dias"]
    sites = [
        real(shared_data, tmp_path, name=n, source="ham10000", select={"dataset": n}, ak_policy="benign")
        for n in names
    ]
    result = audit(sites, {})
    assert result.counts() == {"lesion: vidir_modern, vidir_molemax": 9}
    first = sites[0].site.model_copy(update={"gives_way_to": ["vidir_molemax"]})
    removed = resolve([replace(sites[0], site=first), *sites[1:]], result)[1]
    shared = set(sites[0].table["lesion_id"]) & set(sites[1].table["lesion_id"])
    assert removed == {
        **dict.fromkeys(names, 0),
        "vidir_modern": int(sites[0].table["lesion_id"].isin(shared).sum()),
    }


@pytest.mark.slow
def test_one_photograph_under_two_lesion_ids_is_found_in_vienna_dias(
    shared_data: Path, tmp_path: Path
) -> None:
    """ISIC_0025226 and ISIC_0030074: one picture, twice developed, said to be two lesions of one patient."""
    data = real(shared_data, tmp_path, name="dias", source="ham10000", select={"dataset": "vienna_dias"})
    cache = open_cache(data, PixelSettings(image_size=32), tmp_path)
    apart = data.table.assign(split=np.where(data.table["image_id"] == "ISIC_0030074", "train", "test"))
    result = audit([replace(data, table=apart)], {"dias": cache.fingerprints})
    near = [c for c in result.conflicts if c.kind == "near-identical pixels"]
    assert [(c.first.images, c.second.images) for c in near] == [(("ISIC_0030074",), ("ISIC_0025226",))]
