"""Held-out images of an SAE's own source, and their embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eval_recipes.statistics.blocks import blocks_of
from eval_recipes.vision.options import VisionEvalConfig
from saereg_plugin.activations.source import ActivationSource, InputSource, Pass
from saereg_plugin.errors import InputError
from saereg_plugin.sources.modules import LoadedModule, load_module

_AT_ONCE = 32


@dataclass(frozen=True)
class HeldOutImages:
    """
    The images of one run of the evaluation.

    Attributes:
        source: held-out activations.
        numbers: of the images in the source, int64 [images].
        blocks: slices of neighbours among them.
        first: bool [images], which of them are in the first half of the purity and the probe.

    Variants of one picture are neighbours, in one block and in one half.
    """

    source: InputSource
    numbers: Tensor
    blocks: list[slice]
    first: Tensor

    @property
    def labels(self) -> Tensor | None:
        """Classes of the images, int64 [images]; None without."""
        labels = self.source.labels
        return None if labels is None else labels[self.numbers]

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes, by label."""
        return self.source.class_names

    def passes(self) -> Iterator[Pass]:
        """Yield the activations of the images, in their order."""
        return self.source.passes(self.numbers)


def chosen_images(source: ActivationSource, options: VisionEvalConfig) -> HeldOutImages:
    """
    Return the images of a source that the options choose.

    Raises:
        InputError: if it has none, or too few.
    """
    if not isinstance(source, InputSource):
        raise InputError(
            f"A source of kind {source.kind!r} has no images; expected 'module' or 'cache'. "
            "Leave the evaluation vision out."
        )
    numbers = _chosen(source, options)
    groups = _groups(source)[numbers]
    blocks = grouped_blocks(groups, options.n_blocks)
    if len(blocks) < options.n_blocks:
        raise InputError(
            f"vision: {len(numbers)} held-out images, which make {len(blocks)} blocks; expected "
            f"{options.n_blocks}. Lower n_blocks, or hold out more images."
        )
    return HeldOutImages(source, numbers, blocks, halves(groups))


def _groups(source: InputSource) -> Tensor:
    """Return the group of each input; an input without variants is its own."""
    found = source.groups
    return torch.arange(source.n_inputs) if found is None else found


def _chosen(source: InputSource, options: VisionEvalConfig) -> Tensor:
    """Return the numbers of the images that the options choose, variants side by side."""
    groups = _groups(source)
    numbers = by_group(groups)
    if options.part != "all":
        numbers = numbers[halves(groups[numbers]) == (options.part == "validation")]
    most = options.n_images
    if most is None or len(numbers) <= most:
        return numbers
    return numbers[torch.arange(most) * len(numbers) // most]


def by_group(groups: Tensor) -> Tensor:
    """
    Return the places of all inputs, int64, groups in the order of their first input.

    >>> by_group(torch.tensor([7, 3, 7, 3, 5])).tolist()
    [0, 2, 1, 3, 4]
    """
    known: dict[int, int] = {}
    ranks = [known.setdefault(group, len(known)) for group in groups.tolist()]
    return torch.tensor(ranks).argsort(stable=True)


def halves(groups: Tensor) -> Tensor:
    """
    Return which inputs are in the first of two halves, bool; groups are whole.

    Each group in turn goes to the smaller half.

    >>> halves(torch.tensor([0, 0, 0, 1, 2, 3])).tolist()
    [True, True, True, False, False, False]
    """
    sizes = {True: 0, False: 0}
    side: dict[int, bool] = {}
    for group in groups.tolist():
        if group not in side:
            side[group] = sizes[True] <= sizes[False]
        sizes[side[group]] += 1
    return torch.tensor([side[group] for group in groups.tolist()], dtype=torch.bool)


def grouped_blocks(groups: Tensor, blocks: int) -> list[slice]:
    """
    Return slices that cover all inputs, about equal, and end where a group ends.

    Args:
        groups: int64 [inputs], inputs of a group are neighbours.
        blocks: slices, at most.

    >>> grouped_blocks(torch.tensor([0, 0, 0, 1, 2, 2]), 2)
    [slice(0, 3, None), slice(3, 6, None)]
    """
    last = [*(groups[1:] != groups[:-1]).tolist(), True]
    borders = [place + 1 for place, ends in enumerate(last) if ends]
    wanted = [block.stop for block in blocks_of(len(groups), blocks)]
    ends = [min((b for b in borders if b >= end), default=0) for end in wanted]
    stops = list(dict.fromkeys(ends))
    return [slice(start, stop) for start, stop in zip([0, *stops], stops)]


def own_embeddings(found: Pass, point: str) -> Tensor:
    """Return the mean of each image's kept rows, float64 [images, d_in] on the CPU."""
    keep = found.keep.cpu()
    rows = found.activations[point].cpu().double() * keep[..., None]
    return rows.sum(1) / keep.sum(1, keepdim=True)


@torch.no_grad()
def judge_embeddings(
    judge: str, images: HeldOutImages, *, image_size: int | None, device: str
) -> Tensor:
    """
    Return the pooled output of an encoder for each image, [images, d].

    Raises:
        InputError: if the source keeps no images, or the encoder is unknown.
    """
    read = getattr(images.source, "input", None)
    if read is None:
        raise InputError(
            f"Judge {judge!r} needs the images, which a source of kind {images.source.kind!r} does not "
            "keep. Set judges to [], or train on the source that the activations came from."
        )
    loaded = load_module(judge, device=device, image_size=image_size)
    found = [
        _embedded(loaded, [read(int(number)) for number in some])
        for some in images.numbers.split(_AT_ONCE)
    ]
    return torch.cat(found)


def _embedded(loaded: LoadedModule, pictures: list[Any]) -> Tensor:
    """Return the embeddings of some images, float32 [images, d] on the CPU."""
    kwargs = loaded.prepare(pictures).kwargs
    return pooled_output(last_output(loaded.module, kwargs), loaded).float().cpu()


def last_output(module: nn.Module, kwargs: Mapping[str, Tensor]) -> Any:
    """Return a model's output before its classifier, by the names of timm and torchvision."""
    for name in ("forward_features", "features"):
        before = getattr(module, name, None)
        if before is not None:
            return before(*kwargs.values())
    return module(**kwargs)


def pooled_output(output: Any, loaded: LoadedModule) -> Tensor:
    """
    Return the part of a model's output that stands for the whole image, [images, d].

    The pooler's output where the model has one; else the class token, or the mean over the
    places of a map or over all tokens; a plain tensor [images, d] as it is.

    Raises:
        InputError: for an output without any.
    """
    for name in ("pooler_output", "image_embeds", "last_hidden_state", "logits"):
        found = getattr(output, name, None)
        if found is not None:
            output = found
            break
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        raise InputError(
            f"Judge {loaded.name!r} returns {type(output).__name__}; expected an output with an embedding "
            "of the image. Choose another judge."
        )
    if output.ndim == 4:
        return output.mean((2, 3))
    if output.ndim == 3:
        return output[:, 0] if loaded.has_class_token else output.mean(1)
    return output
