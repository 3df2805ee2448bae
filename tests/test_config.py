"""Configs: what is read, what ``--set`` changes, and the sentence for each thing a person gets wrong."""

from pathlib import Path

import pytest
import yaml

from fedderm import config
from fedderm.config import ConfigError
from fedderm.settings import Experiment

BASE = """\
name: tiny
rounds: 2
model: {backbone: test_resnet, pretrained: none, image_size: 32}
training: {local_epochs: 1}
sites:
  - {name: north, source: simulated, lesions: 30}
  - {name: south, source: simulated, lesions: 20, role: held-out}
"""


def load(tmp_path: Path, text: str = BASE, *overrides: str) -> Experiment:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return config.load(path, overrides)


def complaint(tmp_path: Path, text: str = BASE, *overrides: str) -> str:
    """Return the one sentence, without the file's path, which it must begin with."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.startswith(f"{tmp_path / 'c.yaml'}: ")
    return sentence.removeprefix(f"{tmp_path / 'c.yaml'}: ")


def test_the_resolved_config_holds_every_default_and_reads_back_the_same(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    written = config.dump(experiment)
    assert yaml.safe_load(written)["training"]["clip_norm"] == 1.0, "a default that the file did not name"
    assert load(tmp_path, written) == experiment
    assert config.from_json(config.to_json(experiment)) == experiment
    changed = experiment.model_copy(update={"rounds": 7})
    assert config.from_json(config.to_json(changed)) == changed, "each has a JSON of its own"
    assert config.to_json(experiment) is config.to_json(experiment), "written once"
    assert config.dump(load(tmp_path, written)) == written


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[1] / "configs").glob("*.yaml")), ids=lambda p: p.name
)
def test_the_configs_of_this_repository_are_valid(path: Path) -> None:
    assert config.load(path).sites


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "rounds: 2",
            "rouns: 2",
            "rouns: no such key (did you mean rounds?); valid here: baseline, baseline_site",
        ),
        ("lesions: 30", "lesion: 30", "sites.north.lesion: no such key (did you mean lesions?)"),
        ("local_epochs", "local_epoch", "training.local_epoch: no such key (did you mean local_epochs?)"),
        (
            "lesions: 30",
            "acquisition: {gama: 1}",
            "sites.north.acquisition.gama: no such key (did you mean gamma?)",
        ),
        ("rounds: 2", "rounds: two", 'rounds: expected a whole number; found "two"'),
        ("rounds: 2", "rounds: 2.5", "rounds: expected a whole number; found 2.5"),
        ("rounds: 2", "rounds: true", "rounds: expected a whole number; found true"),
        ("rounds: 2", "rounds: '2'", 'rounds: expected a whole number; found "2"'),
        ("rounds: 2", "rounds: 0", "rounds: expected a number greater than or equal to 1; found 0"),
        ("rounds: 2", "rounds: 1e1", "rounds: YAML reads 1e1 as text; write 10"),
        (
            "local_epochs: 1",
            "learning_rate: 1e-3",
            "training.learning_rate: YAML reads 1e-3 as text; write 1.0e-3",
        ),
        (
            "local_epochs: 1",
            "learning_rate: 5e4",
            "training.learning_rate: YAML reads 5e4 as text; write 5.0e+4",
        ),
        (
            "local_epochs: 1",
            "local_epochs: .inf",
            "training.local_epochs: expected a finite number; found inf",
        ),
        (
            "local_epochs: 1",
            "local_epochs: .nan",
            "training.local_epochs: expected a finite number; found nan",
        ),
        ("name: tiny", "name: no", "name: expected a text; found false"),
        ("name: tiny", "name: ../x", "name: expected letters, digits, dots, dashes and underscores"),
        ("name: tiny\n", "", "name: is missing; add it"),
        (
            "role: held-out",
            "role: heldout",
            'sites.south.role: expected train or held-out; found "heldout" (did you mean held-out?)',
        ),
        ("local_epochs: 1", "optimizer: adam", 'expected adamw or sgd; found "adam" (did you mean adamw?)'),
        ("local_epochs: 1", "optimizer: lion", 'expected adamw or sgd; found "lion"'),
        ("rounds: 2", "strategy: {name: fedproxx}", "there is no strategy fedproxx; did you mean fedprox?"),
        ("source: simulated", "source: simulatd", "found simulatd (did you mean simulated?)"),
        (
            "source: simulated, lesions: 30",
            "lesions: 30",
            "sites.north.source: expected one of ham10000, isic2019",
        ),
        (
            "lesions: 30",
            "select: {sex: no}",
            "sites.north.select.sex: expected a text or a list; found false",
        ),
        (
            "lesions: 30",
            "splits: {train: 1, calibration: 1, test: 1}",
            "sites.north.splits: the fractions sum to 3",
        ),
        ("name: south", "name: north", "sites: two sites are called north"),
        (
            ", role: held-out",
            ", gives_way_to: [nort]",
            "sites.south.gives_way_to names nort, which is no site",
        ),
        ("training: {local_epochs: 1}", "training:", "training: expected keys with values; found null"),
        ("local_epochs: 1", "local_epochs: 1, local_steps: 5", "training: local_steps stands in place of"),
        ("training: {", "strategy: {proximal_mu: 0.1}\ntraining: {", "strategy: proximal_mu is FedProx's"),
        ("rounds: 2", "rounds: 2\nrounds: 3", "line 3: the key rounds stands twice; keep one"),
        ("rounds: 2", "no: 2", "line 2: YAML does not read no as a text; put it in quotes"),
        ("rounds: 2", "2026-01-01: 2", "line 2: YAML does not read 2026-01-01 as a text; put it in quotes"),
        ("rounds: 2", "? [1]\n: 2", "line 2: YAML does not read this key as a text"),
        (
            "rounds: 2",
            "rounds: 2\n\tx: 1",
            "is not valid YAML (line 3: a tab stands where a word should begin; use spaces)",
        ),
        ("rounds: 2", "seed: 2024-13-01", "is not valid YAML (month must be in 1..12)"),
        ("rounds: 2", "rounds: &a [*a]", "an entry holds itself"),
        ("rounds: 2", "rounds: " + "[" * 5000, "is not valid YAML: brackets lie too deep in each other"),
    ],
)
def test_a_mistake_is_named_with_its_dotted_path(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in BASE
    assert expected in complaint(tmp_path, BASE.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty; expected keys such as name, rounds and sites"),
        ("# only a comment\n", "is empty"),
        ("- a\n- b\n", "found a list"),
        ("hello", "found a single value"),
        ("a: \x00", "is not valid YAML (unacceptable character #x0000"),
        (BASE[: BASE.index("sites:")], "sites: is missing; add it"),
        (
            BASE.replace("source: simulated, lesions: 30", "source: simulated, role: held-out"),
            "none has role: train",
        ),
    ],
)
def test_a_file_that_is_no_experiment_says_so(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in complaint(tmp_path, text)


def test_a_path_that_is_no_text_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    for path, expected in (
        (tmp_path, r"cannot be read \(Is a directory\); give the path of a config"),
        (tmp_path / "absent.yaml", r"cannot be read \(No such file or directory\)"),
        (tmp_path / "binary.yaml", "is not UTF-8 text"),
    ):
        with pytest.raises(ConfigError, match=expected):
            config.load(path)


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    told = complaint(tmp_path, BASE.replace("rounds: 2", "rounds: x").replace("lesions: 20", "lesions: y"))
    assert told == (
        'rounds: expected a whole number; found "x"; sites.south.lesions: expected a whole number; found "y"'
    )


def test_texts_that_look_like_numbers_stay_texts_where_a_text_is_meant(tmp_path: Path) -> None:
    assert load(tmp_path, BASE.replace("name: tiny", "name: '1e3'")).name == "1e3"
    site = load(tmp_path, BASE.replace("lesions: 30", "select: {lesion_id: ['1e3', '007']}")).sites[0]
    assert site.select == {"lesion_id": ["1e3", "007"]}


def test_yaml_merges_and_byte_order_marks_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    merged = BASE.replace("- {name: south, source: simulated, lesions: 20,", "- {<<: *first, name: south,")
    merged = "\ufeff" + merged.replace("- {name: north", "- &first {name: north").replace("\n", "\r\n")
    south = load(tmp_path, merged).sites[1]
    assert (south.name, south.role, south.model_dump()["lesions"]) == ("south", "held-out", 30)


def test_set_replaces_values_by_key_site_name_and_position(tmp_path: Path) -> None:
    changes = ["rounds=3", "training.learning_rate=0.01", "sites.south.lesions=50", "sites.0.lesions=40"]
    changes += ["strategy.name=fedprox", "strategy.proximal_mu=0.1", "sites.north.case_mix.prevalence=0.5"]
    found = load(tmp_path, BASE, *changes, "data_root=/a=b").model_dump(mode="json")
    assert found["rounds"] == 3
    assert found["training"]["learning_rate"] == 0.01
    assert [site["lesions"] for site in found["sites"]] == [40, 50]
    assert found["strategy"] == {**found["strategy"], "name": "fedprox", "proximal_mu": 0.1}
    assert found["sites"][0]["case_mix"]["prevalence"] == 0.5
    assert found["data_root"] == "/a=b"


def test_set_can_replace_a_whole_site(tmp_path: Path) -> None:
    changed = load(tmp_path, BASE, "sites.south={name: east, source: simulated, role: held-out}")
    assert [site.name for site in changed.sites] == ["north", "east"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rounds", "--set rounds: expected key=value, such as"),
        ("=3", "--set =3: expected key=value"),
        ("training..x=3", "--set training..x=3: expected key=value"),
        (".=1", "--set .=1: expected key=value"),
        ("rounds=", "rounds: expected a whole number; found null"),
        ("rounds=1e2", "rounds: YAML reads 1e2 as text; write 100"),
        ("rounds=[1", "--set rounds=[1: the value is not valid YAML (line 1:"),
        ("name=a: b: c", "--set name=a: b: c: the value is not valid YAML"),
        ("name=@x", "--set name=@x: the value is not valid YAML"),
        ("rounds.x=3", "--set rounds.x=3: rounds is a value, it holds no x"),
        ("rounds.x.y=3", "rounds is a value, it holds no x"),
        ("sites.nort.role=train", "no entry nort; there are north, south (did you mean north?)"),
        ("sites.5.role=train", "no entry 5; there are north, south"),
        ("sites.south=3", "sites.1: expected keys with values; found 3"),
        ("training.lerning_rate=1", "training.lerning_rate: no such key (did you mean learning_rate?)"),
    ],
)
def test_a_wrong_set_is_named(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in complaint(tmp_path, BASE, override)


def test_data_root_replaces_the_files(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(BASE + "data_root: /there\n", encoding="utf-8")
    assert config.load(path).data_root == Path("/there")
    assert config.load(path, data_root=tmp_path).data_root == tmp_path
