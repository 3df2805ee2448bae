"""Simulated sites whose truth is known, and how often certified thresholds break their promise there.

Lesion logits at site s are normal with standard deviation 1, malignant ones about ``m_s + 1.5`` and benign
ones about ``m_s - 1``; ``m_s`` scatters over sites. So every threshold's true sensitivity, specificity, NPV
and share of referrals has a closed form, and a violation is a fact. The thresholds come from the package's
own functions. A method holds where its violations, among the sites that were offered a threshold, are
compatible with at most ``1 - confidence`` (one-sided exact binomial test at 1 %), and breaks where they are
not.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, norm

from fedderm.evaluation.informed import evidence_of, informed_threshold, quantile_rank
from fedderm.evaluation.predictive_values import npv_threshold, referral_threshold
from fedderm.evaluation.scores import Scores
from fedderm.evaluation.thresholds import certified_threshold

Floats = NDArray[np.float64]
Method = Literal["federation", "site", "site, images as lesions", "informed", "npv", "referral"]

TARGET: Final = 0.90
CONFIDENCE: Final = 0.95
TARGET_NPV: Final = 0.98
MAX_REFERRAL: Final = 0.50
MALIGNANT: Final = 1.5
BENIGN: Final = -1.0
SIGNIFICANCE: Final = 0.01


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """How sites, their lesions and what follows calibration are drawn."""

    name: str
    methods: tuple[Method, ...]
    breaks: tuple[Method, ...] = ()
    """Methods that are expected to break here."""
    positives: int = 40
    """Malignant calibration lesions of the new site (site, informed)."""
    lesions: int = 600
    """All its calibration lesions (npv, referral), malignant ones at ``prevalence``."""
    prevalence: float = 0.2
    prevalence_later: float | None = None
    training_sites: int = 8
    training_positives: int = 100
    spread: float = 0.5
    """Standard deviation of m_s."""
    shape: Literal["normal", "uniform", "heavy", "skewed", "two groups"] = "normal"
    """Of m_s: heavy is Student's t with 3 degrees of freedom, skewed has its long tail below."""
    device: float = 0.0
    """Added to m_s of the new site only, before and after calibration."""
    shift_later: float = 0.0
    """Added to the new site's scores after calibration: another dermatoscope."""
    per_patient: int = 1
    """Lesions of a patient, whose logits correlate with 0.7."""
    images: int = 1
    """Of a lesion, nearly alike."""


@dataclass(frozen=True)
class Row:
    """What a method did in a scenario."""

    scenario: str
    method: Method
    expected: Literal["holds", "breaks"]
    sites: int
    offered: int
    violations: int
    cost: float
    """Mean specificity lost against the oracle's threshold, at the sites where one was offered."""

    @property
    def found(self) -> str:
        """``holds`` or ``breaks``; ``never offered`` where no site got a threshold."""
        if self.offered == 0:
            return "never offered"
        test = binomtest(self.violations, self.offered, 1 - CONFIDENCE, alternative="greater")
        return "breaks" if test.pvalue < SIGNIFICANCE else "holds"


def simulate(scenario: Scenario, sites: int, seed: int) -> list[Row]:
    """Return one row per method, over ``sites`` new sites, each with a federation of its own."""
    rng = np.random.default_rng(seed)
    means = scenario.spread * _standard(rng, scenario.shape, (sites, scenario.training_sites + 1))
    own = means[:, -1] + scenario.device
    rows = []
    for method in scenario.methods:
        thresholds = _THRESHOLDS[method](scenario, means[:, :-1], own, rng)
        offered = np.isfinite(thresholds)
        relative = thresholds[offered] - own[offered] - scenario.shift_later
        violated = _violated(method, relative, scenario)
        oracle = _oracle(method, scenario)
        cost = norm.cdf(oracle - BENIGN) - norm.cdf(relative - BENIGN)
        rows.append(
            Row(
                scenario=scenario.name,
                method=method,
                expected="breaks" if method in scenario.breaks else "holds",
                sites=sites,
                offered=int(offered.sum()),
                violations=int(violated.sum()),
                cost=float(cost.mean()) if len(cost) else float("nan"),
            )
        )
    return rows


def _standard(rng: np.random.Generator, shape: str, size: tuple[int, int]) -> Floats:
    draws: dict[str, Callable[[], Floats]] = {
        "normal": lambda: rng.normal(size=size),
        "uniform": lambda: (rng.random(size) - 0.5) * 12**0.5,
        "heavy": lambda: rng.standard_t(3, size) / 3**0.5,
        "skewed": lambda: 1 - rng.exponential(size=size),
        "two groups": lambda: np.sign(rng.random(size) - 0.5),
    }
    return draws[shape]()


def _malignant(scenario: Scenario, own: Floats, rng: np.random.Generator) -> Floats:
    """Return the new sites' calibration logits, ``(sites, positives)``, correlated within patients."""
    n, together = scenario.positives, scenario.per_patient
    own_part = rng.normal(size=(len(own), n))
    if together > 1:
        shared = np.repeat(rng.normal(size=(len(own), -(-n // together))), together, axis=1)[:, :n]
        own_part = 0.7**0.5 * shared + 0.3**0.5 * own_part
    return own[:, None] + MALIGNANT + own_part


def _site(scenario: Scenario, _: Floats, own: Floats, rng: np.random.Generator) -> Floats:
    lesions = _malignant(scenario, own, rng)
    if scenario.images > 1:
        lesions = np.stack([row.per_lesion().triage for row in _images(scenario, lesions, rng)])
    return _or_nan(certified_threshold(row, TARGET, CONFIDENCE)[0] for row in lesions)


def _site_images(scenario: Scenario, _: Floats, own: Floats, rng: np.random.Generator) -> Floats:
    rows = _images(scenario, _malignant(scenario, own, rng), rng)
    return _or_nan(certified_threshold(row.triage, TARGET, CONFIDENCE)[0] for row in rows)


def _images(scenario: Scenario, lesions: Floats, rng: np.random.Generator) -> list[Scores]:
    """Return image rows whose lesion means are ``lesions``, so that the lesions' law stays as it is."""
    n, m = lesions.shape[1], scenario.images
    noise = 0.3 * rng.normal(size=(*lesions.shape, m))
    logits = lesions[..., None] + noise - noise.mean(axis=-1, keepdims=True)
    names, ones = np.repeat(np.arange(n).astype(np.str_), m), np.ones(n * m, np.int64)
    return [Scores(row.ravel(), ones, ones, names) for row in logits]


def _federation(scenario: Scenario, training: Floats, _: Floats, rng: np.random.Generator) -> Floats:
    pooled = _training_lesions(scenario, training, rng).reshape(len(training), -1)
    return _or_nan(certified_threshold(row, TARGET, CONFIDENCE)[0] for row in pooled)


def _informed(scenario: Scenario, training: Floats, own: Floats, rng: np.random.Generator) -> Floats:
    rank = quantile_rank(scenario.training_positives, TARGET) - 1
    quantiles = np.partition(_training_lesions(scenario, training, rng), rank, axis=2)[..., rank]
    lesions = _malignant(scenario, own, rng)
    return _or_nan(
        informed_threshold(row, evidence_of(others, TARGET, CONFIDENCE)).threshold
        for row, others in zip(lesions, quantiles, strict=True)
    )


def _training_lesions(scenario: Scenario, training: Floats, rng: np.random.Generator) -> Floats:
    size = (*training.shape, scenario.training_positives)
    return np.asarray(training[..., None] + MALIGNANT + rng.normal(size=size))


def _all_lesions(scenario: Scenario, own: Floats, rng: np.random.Generator) -> list[Scores]:
    n = scenario.lesions
    names, ones = np.arange(n).astype(np.str_), np.ones(n, np.int64)
    truth = (rng.random((len(own), n)) < scenario.prevalence).astype(np.int64)
    logits = own[:, None] + np.where(truth, MALIGNANT, BENIGN) + rng.normal(size=truth.shape)
    return [Scores(row, ones, labels, names) for row, labels in zip(logits, truth, strict=True)]


def _npv(scenario: Scenario, _: Floats, own: Floats, rng: np.random.Generator) -> Floats:
    return _or_nan(npv_threshold(s, TARGET_NPV, CONFIDENCE)[0] for s in _all_lesions(scenario, own, rng))


def _referral(scenario: Scenario, _: Floats, own: Floats, rng: np.random.Generator) -> Floats:
    return _or_nan(
        referral_threshold(s, MAX_REFERRAL, CONFIDENCE)[0] for s in _all_lesions(scenario, own, rng)
    )


_THRESHOLDS: Final[dict[Method, Callable[[Scenario, Floats, Floats, np.random.Generator], Floats]]] = {
    "federation": _federation,
    "site": _site,
    "site, images as lesions": _site_images,
    "informed": _informed,
    "npv": _npv,
    "referral": _referral,
}


def _or_nan(thresholds: Iterable[float | None]) -> Floats:
    return np.array([np.nan if one is None else one for one in thresholds], dtype=np.float64)


def _below(threshold: Floats, prevalence: float) -> tuple[Floats, Floats]:
    """Return the shares of all lesions that are malignant and that are benign below a relative threshold."""
    return prevalence * norm.cdf(threshold - MALIGNANT), (1 - prevalence) * norm.cdf(threshold - BENIGN)


def _violated(method: Method, relative: Floats, scenario: Scenario) -> NDArray[np.bool_]:
    malignant, benign = _below(relative, scenario.prevalence_later or scenario.prevalence)
    if method == "npv":
        return np.asarray(benign < TARGET_NPV * (malignant + benign))
    if method == "referral":
        return np.asarray(1 - malignant - benign > MAX_REFERRAL)
    return np.asarray(norm.sf(relative - MALIGNANT) < TARGET)


def _oracle(method: Method, scenario: Scenario) -> float:
    """Return the best threshold that keeps the promise, relative to the site's mean."""
    grid = np.arange(-8, 8, 1e-3)
    kept = grid[~_violated(method, grid, scenario)]
    return float(kept.min() if method == "referral" else kept.max())
