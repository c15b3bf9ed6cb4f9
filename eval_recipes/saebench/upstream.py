"""Context manager around SAEBench's evals, with seeds, patches and error reports."""

from __future__ import annotations

import copy
import inspect
import io
import json
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import TypeAdapter
from sae_bench.sae_bench_utils import activation_collection, general_utils
from sae_lens import SAE

from eval_recipes.results.subject import Subject
from saereg_plugin.sources import corpora
from saereg_plugin.sources.assets import require_hub_repo
from saereg_plugin.sources.models import HookedTransformer, LanguageModel

logger = logging.getLogger(__name__)

Output = TypeVar("Output")


class UpstreamError(RuntimeError):
    """An upstream eval failed; the message names the eval, the SAE and the cause."""


@dataclass
class Captured:
    """Upstream's prints, and the errors that it logged instead of raising."""

    errors: list[str] = field(default_factory=list)
    exceptions: list[BaseException] = field(default_factory=list)
    printed: io.StringIO = field(default_factory=io.StringIO)

    @property
    def cause(self) -> str | None:
        """The first exception upstream swallowed, else its first logged error."""
        if self.exceptions:
            return f"{type(self.exceptions[0]).__name__}: {self.exceptions[0]}"
        return self.errors[0] if self.errors else None


class _ErrorHandler(logging.Handler):
    """Collects error records, with the exception that was being handled."""

    def __init__(self, captured: Captured) -> None:
        super().__init__(logging.ERROR)
        self.captured = captured

    def emit(self, record: logging.LogRecord) -> None:
        self.captured.errors.append(record.getMessage())
        # Upstream logs only str(error); the handler still runs inside `except`.
        if (error := sys.exc_info()[1]) is not None:
            self.captured.exceptions.append(error)


@contextmanager
def patched(target: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an attribute and put it back, descriptors such as classmethods included."""
    own = vars(target)
    had, old = name in own, own.get(name)
    setattr(target, name, value)
    try:
        yield
    finally:
        if had:
            setattr(target, name, old)
        else:
            delattr(target, name)


@contextmanager
def all_patched(patches: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Replace several attributes, (target, name, value) each, and put them back."""
    with ExitStack() as stack:
        for target, name, value in patches:
            stack.enter_context(patched(target, name, value))
        yield


@contextmanager
def preserved_state() -> Iterator[None]:
    """Restore random states, gradient mode and working folder."""
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    grad, folder = torch.is_grad_enabled(), os.getcwd()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        torch.set_grad_enabled(grad)
        os.chdir(folder)


@contextmanager
def preserved_model(model: LanguageModel) -> Iterator[None]:
    """
    Run a block without the caller's hooks; restore hooks and tokenizer afterwards.

    Upstream removes every hook that is not permanent, and an evaluation should not see the
    caller's. Permanent hooks are part of the model.
    """
    tokenizer: Any = model.tokenizer
    padding, truncation = tokenizer.padding_side, tokenizer.truncation_side
    points = list(model.hook_dict.values())
    hooks = [(list(point.fwd_hooks), list(point.bwd_hooks)) for point in points]
    torch_hooks = [
        (dict(point._forward_hooks), dict(point._backward_hooks)) for point in points
    ]
    model.reset_hooks()
    try:
        yield
    finally:
        tokenizer.padding_side, tokenizer.truncation_side = padding, truncation
        model.reset_hooks()
        for point, (forward, backward), (run, run_back) in zip(
            points, hooks, torch_hooks, strict=True
        ):
            point.fwd_hooks, point.bwd_hooks = forward, backward
            # In place: the caller's handles refer to these dictionaries.
            for own, before in (
                (point._forward_hooks, run),
                (point._backward_hooks, run_back),
            ):
                own.clear()
                own.update(before)


@contextmanager
def any_model_class(model: LanguageModel | None) -> Iterator[None]:
    """
    Let upstream collect activations of a model that is no ``HookedTransformer``.

    Its functions refuse other classes by a check of types (beartype); without the check
    they work on every model with TransformerLens' hooks.
    """
    if model is None or isinstance(model, HookedTransformer):
        yield
        return
    checked = {
        name: function
        for name, function in vars(activation_collection).items()
        if hasattr(function, "__wrapped__")
        and "model" in inspect.signature(function).parameters
    }
    with all_patched(
        (activation_collection, name, torch.no_grad()(inspect.unwrap(function)))
        for name, function in checked.items()
    ):
        yield


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def folded_copy(sae: SAE[Any]) -> SAE[Any]:
    """
    Return a copy with unit decoder rows, as upstream scores SAEs loaded by name.

    A TopK SAE that ranks latents by unscaled activation is copied as it is:
    folding would change which latents it picks.
    """
    folded = copy.deepcopy(sae)
    # A copied closure still notes the input's norm on the SAE it was made for.
    folded._setup_activation_normalization()
    try:
        folded.fold_W_dec_norm()
    except NotImplementedError:
        logger.info("Decoder norms of %s cannot be folded", sae.cfg.architecture())
    return folded


@contextmanager
def _capture(captured: Captured) -> Iterator[None]:
    """Collect upstream's prints and logged errors."""
    handler = _ErrorHandler(captured)
    upstream_logger = logging.getLogger("sae_bench")
    propagate = upstream_logger.propagate
    upstream_logger.addHandler(handler)
    upstream_logger.propagate = False
    try:
        with redirect_stdout(captured.printed), warnings.catch_warnings():
            # evaluations pass raw text on purpose
            warnings.filterwarnings("ignore", "Dataset is not tokenized")
            yield
    finally:
        upstream_logger.removeHandler(handler)
        upstream_logger.propagate = propagate
        logger.debug("SAEBench printed: %s", captured.printed.getvalue())


def _no_retry(**_: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replace upstream's retries, which sleep on permanent errors."""
    return lambda function: function


def _weights_only(load: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``torch.load`` without its way to run code from a file."""
    return lambda *args, **kwargs: load(*args, **{**kwargs, "weights_only": True})


@contextmanager
def upstream(
    eval: str,
    subject: Subject,
    sae: SAE[Any],
    model: LanguageModel | None,
    *,
    seed: int,
) -> Iterator[Captured]:
    """
    Run one of upstream's evals on one SAE inside this block.

    Inside it, every model that upstream loads is ``model``, every SAE is a
    decoder-norm-folded copy of ``sae`` under its true id, and the global generators are
    seeded. Afterwards, also after a failure, every global is restored. ``sae`` itself never
    changes. Without a model, an eval that asks for one fails. ``torch.load`` unpickles only
    tensors and plain values.

    Raises:
        UpstreamError: if upstream raised or logged an error.
    """

    def load_model(*_: Any, **__: Any) -> LanguageModel:
        if model is None:
            raise RuntimeError(
                "it asked for the language model, expected weights alone"
            )
        return model

    def load_sae(*_: Any, **__: Any) -> tuple[str, SAE[Any], None]:
        # A copy for each call: upstream casts what it is given in place.
        copied = folded_copy(sae)
        general_utils._standardize_sae_cfg(copied.cfg)
        return subject.sae_id, copied, None

    captured = Captured()
    try:
        with ExitStack() as stack:
            stack.enter_context(preserved_state())
            if model is not None:
                stack.enter_context(preserved_model(model))
            stack.enter_context(any_model_class(model))
            replaced = (
                (HookedTransformer, "from_pretrained_no_processing", load_model),
                (general_utils, "load_and_format_sae", load_sae),
                (general_utils, "retry_with_exponential_backoff", _no_retry),
                (torch, "load", _weights_only(torch.load)),
            )
            stack.enter_context(all_patched(replaced))
            stack.enter_context(_capture(captured))
            seed_everything(seed)
            yield captured
    except Exception as error:
        raise UpstreamError(
            f"{eval} of SAE {subject.sae_id!r} failed: {type(error).__name__}: {error}"
        ) from error
    if captured.cause is not None:
        origin = captured.exceptions[0] if captured.exceptions else None
        raise UpstreamError(
            f"{eval} of SAE {subject.sae_id!r} failed: {captured.cause}"
        ) from origin


def upstream_model_name(name: str) -> str:
    """
    Return a model's name for upstream; for a local model the last part of its path.

    Upstream joins the name to the path of a folder that it makes. The whole path of a local
    model would lead out of that folder.
    """
    return Path(name).resolve().name if Path(name).is_dir() else name


def read_upstream(
    folder: Path, cls: type[Output], *, eval: str, subject: Subject
) -> Output:
    """
    Read upstream's only result below ``folder`` as its output class.

    Raises:
        UpstreamError: if there is not exactly one, or it does not parse.
    """
    files = list(folder.rglob("*_eval_results.json"))
    if len(files) != 1:
        raise UpstreamError(
            f"{eval} of SAE {subject.sae_id!r} left {len(files)} result files and no error; "
            "expected one."
        )
    try:
        record = json.loads(files[0].read_text(encoding="utf-8"))
        return TypeAdapter(cls).validate_python(record)
    except ValueError as error:
        raise UpstreamError(
            f"{eval} of SAE {subject.sae_id!r} left a broken result: {error}"
        ) from error


def without_bar(items: Iterable[Any], **_: Any) -> Iterable[Any]:
    """Replace tqdm: upstream's progress bars count to one for every SAE."""
    return items


def require_dataset(repository: str) -> None:
    """
    Refuse a hub data set that is neither in the cache nor reachable.

    Raises:
        InputError: within seconds, saying what works offline.
    """
    if not corpora.is_cached(repository):
        require_hub_repo(
            repository,
            kind="dataset",
            advice="Data 'embedded' (`--data embedded`) works offline; its scores are not "
            "comparable with published ones.",
        )
