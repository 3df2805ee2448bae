"""How many image updates a round takes: what a federation and its baselines share."""

from collections.abc import Sequence

from fedderm.training_settings import TrainingSettings


def batch_size(images: int, settings: TrainingSettings) -> int:
    """Return the images of a batch at a site with so many."""
    return min(settings.batch_size, images)


def steps_of(images: int, settings: TrainingSettings) -> int:
    """Return the batches of a round at a site with so many images: one at least."""
    if settings.local_epochs is None:
        return settings.local_steps or 1
    return max(1, round(settings.local_epochs * images / batch_size(images, settings)))


def image_updates(sizes: Sequence[int], settings: TrainingSettings, fraction: float) -> int:
    """Return the image updates of a round over sites with so many images each.

    Where only a fraction of the sites is drawn each round: of as many sites, at the mean of all.
    """
    updates = sum(steps_of(images, settings) * batch_size(images, settings) for images in sizes)
    drawn = max(1, round(fraction * len(sizes)))
    return round(updates * drawn / len(sizes))
