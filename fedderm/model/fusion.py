"""Late fusion: several backbones look at the same image, the heads see their features side by side."""

import torch
from torch import Tensor, nn


class LateFusion(nn.Module):
    """Backbones whose pooled features are joined, ``(B, F_1 + F_2 + ...)``.

    Each normalises its images (B, 3, H, W) in 0..1 as its weights were trained: what is fused may disagree
    about that, so that none of it is left to the caller.
    """

    def __init__(self, branches: list[tuple[nn.Module, tuple[float, ...], tuple[float, ...]]]) -> None:
        """Join ``branches``: network, mean and standard deviation of its normalisation."""
        super().__init__()
        self.branches = nn.ModuleList(network for network, _, _ in branches)
        for name, values in (("means", [m for _, m, _ in branches]), ("stds", [s for _, _, s in branches])):
            # (branches, 3, 1, 1): channels_last, the format of a round, refuses a fifth axis.
            self.register_buffer(name, torch.tensor(values)[:, :, None, None], persistent=False)

    means: Tensor
    stds: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Return the joined features of images (B, 3, H, W) in 0..1."""
        seen = [
            network((images - self.means[index]) / self.stds[index])
            for index, network in enumerate(self.branches)
        ]
        return torch.cat(seen, dim=1)
