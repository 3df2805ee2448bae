"""The ISIC archive: its terms become canonical diagnoses, and nothing indeterminate is guessed."""

from pathlib import Path

import pandas as pd
import pytest

from sites.errors import SiteError
from sites.isic_archive import IsicArchiveSite, diagnosis_of
from sites.table import missing_images, validate


@pytest.mark.parametrize(
    ("terms", "diagnosis"),
    [
        (["Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma in situ"], "mel"),
        (["Malignant", "Malignant melanocytic proliferations (Melanoma)"], "mel"),
        (["Malignant", "Malignant epidermal proliferations", "Keratoacanthoma"], "scc"),
        (
            [
                "Malignant",
                "Malignant epidermal proliferations",
                "Squamous cell carcinoma in situ",
                "Squamous cell carcinoma in situ, Bowens disease",
            ],
            "scc",
        ),
        (
            [
                "Malignant",
                "Malignant adnexal epithelial proliferations - Follicular",
                "Basal cell carcinoma",
                "Basal cell carcinoma, Nodular",
            ],
            "bcc",
        ),
        (["Malignant", "Merkel cell proliferation", "Merkel cell carcinoma"], "other_malignant"),
        (
            [
                "Malignant",
                "Malignant soft tissue proliferations - Fibro-histiocytic",
                "Dermatofibrosarcoma protuberans",
            ],
            "other_malignant",
        ),
        (
            ["Malignant", "Malignant soft tissue proliferations - Vascular", "Hemangioendothelioma"],
            "other_malignant",
        ),
        (["Malignant", "Collision - At least one malignant proliferation"], "other_malignant"),
        (["Malignant"], "other_malignant"),
        (["Indeterminate", "Indeterminate epidermal proliferations", "Solar or actinic keratosis"], "ak"),
        (["Indeterminate", "Indeterminate melanocytic proliferations", "Atypical Spitz tumor"], None),
        (["Indeterminate"], None),
        ([], None),
        (["Benign", "Benign melanocytic proliferations", "Nevus", "Nevus, Spitz"], "nv"),
        (["Benign", "Benign melanocytic proliferations", "Lentigo simplex"], "other_benign"),
        (
            ["Benign", "Benign adnexal epithelial proliferations - Sebaceous", "Nevus sebaceus"],
            "other_benign",
        ),
        (["Benign", "Benign epidermal proliferations", "Pigmented benign keratosis"], "bkl"),
        (["Benign", "Benign soft tissue proliferations - Vascular", "Venous lake"], "vasc"),
        (["Benign", "Hemorrhagic lesions", "Hemorrhage", "Subungual hemorrhage"], "vasc"),
        (["Benign", "Benign soft tissue proliferations - Fibro-histiocytic", "Dermatofibroma"], "df"),
        (["Benign", "Benign soft tissue proliferations - Fibro-histiocytic", "Scar"], "other_benign"),
        (["Benign"], "other_benign"),
        (["Benign", "Malignant melanocytic proliferations (Melanoma)"], None),
        (["  malignant ", "BASAL  cell carcinoma"], "bcc"),
    ],
)
def test_terms(terms: list[str], diagnosis: str | None) -> None:
    assert diagnosis_of(terms) == diagnosis


MELANOCYTIC = "Malignant melanocytic proliferations (Melanoma)"
COLUMNS = (
    "isic_id,attribution,copyright_license,age_approx,anatom_site_general,benign_malignant,diagnosis_1,diagnosis_2,"
    "diagnosis_3,fitzpatrick_skin_type,image_type,lesion_id,patient_id,sex"
)
ROWS = (
    f"ISIC_1,A,CC-BY,85,head/neck,,Malignant,{MELANOCYTIC},Melanoma in situ,II,dermoscopic,IL_1,IP_1,male",
    "ISIC_2,A,CC-BY,40,,benign,Benign,Benign melanocytic proliferations,Nevus,,dermoscopic,IL_2,IP_1,male",
    "ISIC_3,B,CC-0,,,,Indeterminate,Indeterminate melanocytic proliferations,,,dermoscopic,IL_3,,female",
    "ISIC_4,B,CC-0,,,,,,,,dermoscopic,,,",
    "ISIC_5,B,CC-0,30,,benign,Benign,,,,clinical: close-up,IL_2,IP_1,male",
)
METADATA = "\n".join((COLUMNS, *ROWS))


def read(root: Path, metadata: str = METADATA) -> pd.DataFrame:
    folder = root / "isic_archive"
    folder.mkdir()
    (folder / "metadata.csv").write_text(metadata)
    for number in range(1, 5):
        (folder / f"ISIC_{number}.jpg").touch()
    site = IsicArchiveSite(name="archive", source="isic_archive")
    return validate(site.read(root, root / "work", 0), "metadata.csv")


def test_an_export(tmp_path: Path) -> None:
    table = read(tmp_path)
    # Image 1 is a melanoma although the legacy benign_malignant is blank.
    assert table["diagnosis"].tolist()[:2] == ["mel", "nv"]
    assert table["patient_id"].tolist()[:2] == ["IP_1", "IP_1"]
    assert table["lesion_id"].tolist()[:2] == ["IL_1", "IL_2"]
    assert table["skin_type"].tolist()[0] == "II"
    assert table["acquisition"].tolist()[2] == "B"
    assert table["set_aside"].tolist()[2:] == [
        "indeterminate diagnosis",
        "no diagnosis",
        "image_type clinical: close-up is not dermoscopic",
    ]
    assert missing_images(table).tolist() == [False] * 4 + [True]


def test_an_export_from_before_the_hierarchy(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match=r"column 'diagnosis_1' is missing.*export again"):
        read(tmp_path, METADATA.replace("diagnosis_", "diagnosis"))


def test_real_terms_fall_where_milk10k_puts_them(shared_data: Path) -> None:
    """MILK10k names lesions in the archive's words and gives each its class: both must say the same."""
    folder = shared_data / "milk10k"
    truth = pd.read_csv(folder / "MILK10k_Training_GroundTruth.csv").set_index("lesion_id").idxmax(axis=1)
    metadata = pd.read_csv(folder / "MILK10k_Training_Metadata.csv")
    rows = pd.read_csv(folder / "MILK10k_Training_Supplement.csv").merge(metadata, on="isic_id")
    milk = rows["lesion_id"].map(truth)
    sides = {"BCC": "Malignant", "MEL": "Malignant", "SCCKA": "Malignant", "MAL_OTH": "Malignant"}
    side = milk.map(sides).fillna("Benign")
    # Its AKIEC mixes indeterminate keratoses with Bowen's disease, which is malignant.
    side[milk == "AKIEC"] = "Indeterminate"
    side[rows["diagnosis_full"].str.contains("Bowen")] = "Malignant"
    ours = [diagnosis_of(pair) for pair in zip(side, rows["diagnosis_full"], strict=True)]
    counts = pd.crosstab(milk, pd.Series(ours))
    found = {c: set(counts.columns[counts.loc[c] > 0]) for c in counts.index}
    assert found == {
        "AKIEC": {"ak", "scc"},
        "BCC": {"bcc"},
        "BEN_OTH": {"other_benign", "vasc"},
        "BKL": {"bkl"},
        "DF": {"df"},
        "INF": {"other_benign"},
        "MAL_OTH": {"other_malignant"},
        "MEL": {"mel"},
        "NV": {"nv"},
        "SCCKA": {"scc"},
        "VASC": {"vasc"},
    }
    assert len(ours) == 10_480
    assert counts.loc["AKIEC"].to_dict()["scc"] == 360
    assert counts.loc["BEN_OTH"].to_dict()["vasc"] == 4
