"""Sources besides language models that the SAEs of a run read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from saereg_plugin.activations.config import SourceFacts
from saereg_plugin.activations.opening import describe_source, open_source
from saereg_plugin.activations.source import ActivationSource
from saereg_plugin.sources.inputs import Split


class OtherSource(NamedTuple):
    """A source that is no language model on a text; SAEs that agree share its passes."""

    settings: str
    """As ``open_source`` takes them, without points, as JSON; empty for an object."""

    split: Split

    rows: int
    """Rows of an input, which points that share a pass have in common; 0 if unknown."""


class SourceCache:
    """
    Keeps the source that was used last, and what is known of all.

    A source is opened with every point that is expected so far, so that SAEs on several
    points share its passes.
    """

    def __init__(self) -> None:
        self._facts: dict[tuple[str, Split, str | None], SourceFacts] = {}
        self._points: dict[OtherSource, list[str]] = {}
        self.identities: dict[OtherSource, dict[str, Any]] = {}
        """Identities of sources; they differ between points only in the points' names."""
        self._opened: tuple[OtherSource, ActivationSource] | None = None

    def facts(self, settings: str, split: Split, point: str | None) -> SourceFacts:
        """
        Return what is known of a source at a point, without its model's weights.

        Raises:
            InputError: for settings that name no source, or another point than it has.
        """
        key = (settings, split, point)
        if key not in self._facts:
            given = json.loads(settings)
            if point is not None:
                given["point"] = point
            self._facts[key] = describe_source(given, split=split)
        return self._facts[key]

    def expect(self, source: OtherSource, point: str) -> None:
        """Note a point that is to be opened with its source."""
        asked = self._points.setdefault(source, [])
        if point not in asked:
            asked.append(point)

    def get(
        self, source: OtherSource, points: Iterable[str], *, device: str, dtype: str
    ) -> ActivationSource:
        """
        Return a source with these points at least, opened at its first use.

        Raises:
            InputError: if it cannot be opened.
        """
        for point in points:
            self.expect(source, point)
        asked = self._points[source]
        if self._opened is not None:
            name, opened = self._opened
            if name == source and set(asked) <= set(opened.points):
                return opened
        # first, so that two models are never in memory together
        self.release()
        settings = {**json.loads(source.settings), "point": asked}
        opened = open_source(settings, split=source.split, device=device, dtype=dtype)
        self._opened = (source, opened)
        return opened

    def release(self) -> None:
        """Drop the source; who asks for it opens it again."""
        self._opened = None
