"""The device through which a site's images are seen: colour, optics, sensor, file format and artefacts.

Applies equally to rendered and to real images. The ranges that ``AcquisitionProfile.draw`` uses are a
choice of ours, backed by what was measured between HAM10000's four sources and in ISIC 2018
(docs/simulated-centres.md).
"""

import io
from collections.abc import Callable
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.ndimage import gaussian_filter

from sites import artefacts

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Triple = tuple[Positive, Positive, Positive]
Spread = Annotated[float, Field(ge=0, le=1)]
Pixels = NDArray[np.uint8]
_Layer = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]


class ByLabel(BaseModel):
    """An artefact's probability in benign and in malignant lesions: a shortcut that a model may learn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    benign: Probability
    malignant: Probability


Rate = Probability | ByLabel


class AcquisitionProfile(BaseModel):
    """One simulated device. Every default is "no effect": an empty profile returns images unchanged.

    ``device_seed`` draws a whole device; what is written beside it overrides what was drawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device_seed: Annotated[int, Field(ge=0)] | None = None
    channel_gains: Triple = (1.0, 1.0, 1.0)
    """Factors of red, green and blue; the same in every image of the site."""
    gain_jitter: tuple[Spread, Spread, Spread] = (0.0, 0.0, 0.0)
    """Standard deviation of the log gains from image to image."""
    gamma: Annotated[float, Field(ge=0.2, le=5)] = 1.0
    """Exponent of the intensities in 0..1; above 1 darkens."""
    saturation: Annotated[float, Field(ge=0, le=4)] = 1.0
    vignette: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of the light that is lost in the corners."""
    black_corners: Rate = 0.0
    """Probability that the field of view is a circle on black."""
    zoom: Annotated[float, Field(ge=0.25, le=4)] = 1.0
    """Above 1 shows less skin, larger; below 1 more skin (mirrored at the frame's edge), smaller."""
    blur: Annotated[float, Field(ge=0, le=20)] = 0.0
    """Gaussian sigma in pixels of an image whose shorter side is 224."""
    noise: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Standard deviation of the sensor's noise, of intensities in 0..1."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] | None = None
    hair: Rate = 0.0
    hair_strands: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] = (5, 40)
    """Fewest and most strands in an image that has hair."""
    ruler: Rate = 0.0
    bubbles: Rate = 0.0
    ink: Rate = 0.0

    @classmethod
    def draw(cls, seed: int) -> Self:
        """Return a whole device drawn from the plausible ranges; the same device for the same seed."""
        return cls.model_validate({"device_seed": seed})

    @model_validator(mode="before")
    @classmethod
    def _draw_device(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        # A list from YAML is as good as a tuple, also where numbers and texts are told apart strictly.
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        seed = given.get("device_seed")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            return given
        return {**_drawn(seed), **given}

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.hair_strands[0] > self.hair_strands[1]:
            raise ValueError(f"hair_strands {self.hair_strands}: the first must not exceed the second")
        return self


def apply(image: Pixels, profile: AcquisitionProfile, rng: np.random.Generator, malignant: bool) -> Pixels:
    """Return ``image`` ``(H, W, 3)`` as the profile's device would have recorded it, same shape.

    Light passes in its own order: framing, what lies on the skin, the circular field, lens, exposure,
    sensor, file. Each step has its own random stream, so that changing one setting does not reshuffle
    another. ``malignant`` only matters where an artefact's rate depends on the label. Raises ValueError for
    anything but RGB uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"an RGB image (H, W, 3) of uint8 is needed, not {image.shape} of {image.dtype}")
    covers, field, exposure, sensor = rng.spawn(4)
    shorter = min(image.shape[:2])
    pixels = artefacts.zoomed(image, profile.zoom).astype(np.float32) / 255.0
    pixels = _with_artefacts(pixels, profile, covers, malignant)
    if profile.vignette > 0:
        pixels *= artefacts.vignette(image.shape[:2], profile.vignette)[..., None]
    if field.random() < _rate(profile.black_corners, malignant):
        pixels *= artefacts.circular_field(image.shape[:2], field)[..., None]
    if profile.blur > 0:
        sigma = profile.blur * shorter / 224
        pixels = gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest")
    pixels = _exposed(pixels, profile, exposure)
    if profile.noise > 0:
        pixels += sensor.normal(0.0, profile.noise, pixels.shape).astype(np.float32)
    recorded = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return recorded if profile.jpeg_quality is None else _through_jpeg(recorded, profile.jpeg_quality)


def _drawn(seed: int) -> dict[str, Any]:
    """Return the settings of a device drawn from the ranges of docs/simulated-centres.md."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xDE51CE]))
    gains = np.exp(rng.normal(0.0, (0.07, 0.06, 0.07)))
    ranges = {
        "gamma": (0.8, 1.25),
        "saturation": (0.8, 1.3),
        "vignette": (0.0, 0.3),
        "black_corners": (0.0, 0.4),
        "zoom": (0.7, 1.5),
        "blur": (0.0, 1.2),
        "noise": (0.0, 0.03),
        "hair": (0.3, 0.65),
        "ruler": (0.1, 0.5),
        "bubbles": (0.3, 0.7),
        "ink": (0.0, 0.18),
    }
    drawn: dict[str, Any] = {name: round(float(rng.uniform(*ends)), 4) for name, ends in ranges.items()}
    drawn["jpeg_quality"] = int(rng.integers(50, 96))
    drawn["channel_gains"] = tuple(round(float(g), 4) for g in gains)
    drawn["gain_jitter"] = (0.05, 0.035, 0.055)
    return drawn


def _rate(rate: Rate, malignant: bool) -> float:
    if isinstance(rate, ByLabel):
        return rate.malignant if malignant else rate.benign
    return rate


def _with_artefacts(
    pixels: NDArray[np.float32], profile: AcquisitionProfile, rng: np.random.Generator, malignant: bool
) -> NDArray[np.float32]:
    """Return the skin with what lies on it, lowest layer first: ink, hair, gel bubbles, ruler."""
    fewest, most = profile.hair_strands

    def hair(pixels: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        return artefacts.hair(pixels, rng, int(rng.integers(fewest, most + 1)))

    layers: tuple[tuple[Rate, _Layer], ...] = (
        (profile.ink, artefacts.ink),
        (profile.hair, hair),
        (profile.bubbles, artefacts.bubbles),
        (profile.ruler, artefacts.ruler),
    )
    for stream, (rate, draw) in zip(rng.spawn(len(layers)), layers, strict=True):
        if stream.random() < _rate(rate, malignant):
            pixels = draw(pixels, stream)
    return pixels


def _exposed(
    pixels: NDArray[np.float32], profile: AcquisitionProfile, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return the pixels after white balance, contrast curve and saturation."""
    jitter = np.exp(rng.normal(0.0, 1.0, 3) * profile.gain_jitter)
    pixels = pixels * (np.asarray(profile.channel_gains) * jitter).astype(np.float32)
    if profile.gamma != 1:
        pixels = np.clip(pixels, 0, 1) ** np.float32(profile.gamma)
    if profile.saturation != 1:
        grey = (pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]
        pixels = grey + np.float32(profile.saturation) * (pixels - grey)
    return pixels


def _through_jpeg(image: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    buffer.seek(0)
    return np.asarray(Image.open(buffer).convert("RGB"))
