"""Penalties on decoder directions as their formulas say, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def cos(row: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Cosines of one row to several."""
    return (others * row).sum(dim=1) / (row.norm() * others.norm(dim=1))


def anchor(
    dec: torch.Tensor,
    embeddings: torch.Tensor,
    mode: str,
    top: int,
    temperature: float = 1.0,
) -> torch.Tensor:
    """- mean_i s_i over the whole vocabulary."""
    scores: list[torch.Tensor] = []
    for row in dec:
        best = cos(row, embeddings).sort(descending=True).values[:top]
        if mode == "nearest":
            scores.append(best[0])
        elif mode == "logsumexp":
            scores.append(temperature * (best / temperature).exp().sum().log())
        else:
            weights = (best / temperature).exp()
            scores.append((weights / weights.sum() * best).sum())
    return -torch.stack(scores).mean()


def mmcs(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """mean_i max_j cos(a_i, b_j)."""
    return torch.stack([cos(row, b).max() for row in a]).mean()


def mutual(a: torch.Tensor, others: Sequence[torch.Tensor]) -> torch.Tensor:
    """mean_B (1 - MMCS(A, B)), the others fixed."""
    return torch.stack([1 - mmcs(a, other.detach()) for other in others]).mean()


def orthogonality(
    dec: torch.Tensor, chunks: Sequence[torch.Tensor], *, absolute: bool = False
) -> torch.Tensor:
    """mean over chunks of mean_i (max_{j != i} cos)^2."""
    means: list[torch.Tensor] = []
    for chunk in chunks:
        squares: list[torch.Tensor] = []
        for i in chunk.tolist():
            cosines = cos(dec[i], dec[[j for j in chunk.tolist() if j != i]])
            if absolute:
                cosines = cosines.abs()
            largest = cosines.max() if len(cosines) else dec.new_zeros(())
            squares.append(largest**2)
        means.append(torch.stack(squares).mean())
    return torch.stack(means).mean()
