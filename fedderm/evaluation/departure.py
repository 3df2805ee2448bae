"""Does a site's mean depart from the training sites' more than they depart from one another?

A random-effects comparison in many dimensions: the site's mean lies around the mixture of class means with
covariance ``S/n + B (1 + 1/K)``, S within the site, B between the K training sites (Higgins, Thompson and
Spiegelhalter, JRSS A 172 (2009): the predictive distribution of a new unit). What a change of case mix can
do, a move along the differences of class means, is projected out first (black-box shift estimation's own
equation, Lipton, Wang and Smola, ICML 2018), so the prevalence need not be known. The squared distance is
compared with its expectation by an F distribution with Satterthwaite's degrees of freedom, as in Box's
approximation (Ann. Math. Stat. 25 (1954)).
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import f as f_distribution

from fedderm.evaluation.scores import Floats
from fedderm.evaluation.shift_reference import Block


@dataclass(frozen=True)
class Departure:
    """A site's squared departure against that expected of another site like the training sites."""

    ratio: float
    """Observed over expected; 1 on average where nothing changed."""
    p_value: float
    freedom: tuple[float, float]
    """Degrees of freedom of the F distribution: numerator, denominator."""


def departure(block: Block, rows: Floats) -> Departure:
    """Return the departure of ``rows`` (n, D), one a lesion, from a block of K training sites.

    Raises ValueError for another width, and for fewer than two rows or two sites.
    """
    sites, n = len(block.departures), len(rows)
    if rows.ndim != 2 or rows.shape[1] != len(block.scale):
        raise ValueError(f"departure: expected {len(block.scale)} values a lesion, found {rows.shape}")
    if n < 2 or sites < 2:
        raise ValueError(f"departure: needs 2 lesions and 2 training sites, found {n} and {sites}")
    basis = block.directions()
    here = _without((rows - block.means[0]) / block.scale, basis)
    there = _without(block.departures, basis)
    mean = here.mean(axis=0)
    within = (here - mean) / np.sqrt(n - 1)
    between = there / np.sqrt(sites - 1)
    return _against(float(mean @ mean), within, between, n, block)


def _without(rows: Floats, basis: Floats) -> Floats:
    return np.asarray(rows - (rows @ basis) @ basis.T)


def _against(distance: float, within: Floats, between: Floats, n: int, block: Block) -> Departure:
    """Compare ``distance`` with its expectation; ``within' within`` is S, ``between' between`` B."""
    sites = len(between)
    trace_s, trace_b = float((within**2).sum()), float((between**2).sum())
    # The scale makes a training site's own trace the number of dimensions that are left.
    noise = (len(block.scale) - block.directions().shape[1]) * float(np.mean(1 / block.lesions))
    factor = 1 + 1 / sites
    own = max(0.0, factor * trace_b - noise)
    expected = trace_s / n + own
    if expected < 1e-12:  # nothing varies: all scores in one bin, or features that only tell the classes
        return Departure(1.0, 1.0, (1.0, 1.0))
    square_s = max(float(((within @ within.T) ** 2).sum()) - trace_s**2 / n, 1e-300)
    square_b = _square_trace(between, trace_b)
    mixed = float(((within @ between.T) ** 2).sum())
    spread = square_s / n**2 + 2 * factor * mixed / n + factor**2 * square_b
    freedom = (max(1.0, expected**2 / spread), max(1.0, expected**2 * (sites - 1) / (factor**2 * square_b)))
    ratio = distance / expected
    return Departure(ratio, float(f_distribution.sf(ratio, *freedom)), freedom)


def _square_trace(between: Floats, trace: float) -> float:
    """Return the trace of B squared, estimated from K departures (Srivastava, J. Japan Stat. Soc. 35 (2005)),
    never below what K equal eigenvalues would give."""
    sites = len(between)
    nu = sites - 1
    naive = float(((between @ between.T) ** 2).sum())
    if nu < 2:
        return naive
    unbiased = nu**2 / ((nu - 1) * (nu + 2)) * (naive - trace**2 / nu)
    return max(unbiased, trace**2 / sites, 1e-300)
