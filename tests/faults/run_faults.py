"""Faults of runs of evaluations and of the results that they leave."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from eval_recipes.results.folder import KIND
from eval_recipes.results.outdated import note_attempts
from saereg_plugin.owned_folder import OwnedFolder
from tests.faults.fault import RESUMED, RUN, Fault, Place

_CORE = "core/release_none-seed0_eval_results.json"
_TABLE = "cross_seed/release_none-seed0_stability.parquet"
_L0 = '"l0": '


def _hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.json")) + sorted(folder.rglob("*.parquet"))
    }


def _remember(place: Place) -> None:
    (place.here / "before").write_text(json.dumps(_hashes(place.results)))


def _same_results(place: Place) -> None:
    assert _hashes(place.results) == json.loads((place.here / "before").read_text())


def _refused(
    name: str, flags: str, words: str, row: str = "D6", run: str = RUN
) -> Fault:
    """A run into a folder of results that is refused and removes none of them."""
    return Fault(
        name=name,
        row=row,
        arrange=_remember,
        command=f"{run} {flags}",
        status=2,
        words=words,
        holds=_same_results,
    )


def _edit(place: Place, old: str, new: str) -> None:
    path = place.results / _CORE
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _table_refused(name: str, new: str, words: str) -> Fault:
    """A result whose L0 is something else."""
    return Fault(
        name=name,
        row="message",
        arrange=lambda place: _edit(place, _L0, f'"l0": {new}, "was": '),
        command="table {results}",
        status=2,
        words=rf"{_CORE}' {words}",
    )


def _dot_names(place: Place) -> None:
    for path in (place.results / "core").glob("*.json"):
        path.rename(path.with_name(f".{path.name}"))


def _other_result(place: Place) -> None:
    text = (place.results / _CORE).read_text()
    (place.results / "other_eval_results.json").write_text(
        text.replace(_L0, '"l0": 1, "was": ', 1)
    )


def _fifo(place: Place) -> None:
    os.mkfifo(place.results / "pipe_eval_results.json")


def _cut_table(place: Place) -> None:
    path = place.results / _TABLE
    path.write_bytes(path.read_bytes()[:100])


def _tables_are_whole(place: Place) -> None:
    for path in (place.results / "cross_seed").glob("*.parquet"):
        assert path.read_bytes()[-4:] == b"PAR1"


def _failed_attempt(place: Place) -> None:
    failed = {place.results / _CORE: "OSError: no \x1b[2J space"}
    note_attempts(place.results, failed=failed, current=())


def _thesis(place: Place) -> None:
    for name in ("mine/thesis", "pictures/pareto.png"):
        (place.here / name).parent.mkdir()
        (place.here / name).write_text("mine")


def _thesis_is_there(place: Place) -> None:
    for name in ("mine/thesis", "pictures/pareto.png"):
        assert (place.here / name).read_text() == "mine"
        assert len(list((place.here / name).parent.iterdir())) == 1
    assert not (place.here / "artifacts").exists()


def _own_result(place: Place) -> None:
    """As after a run that was to write it, and did not."""
    OwnedFolder(place.results, KIND).remove([_CORE])
    (place.results / _CORE).write_text("mine")


def _own_result_is_there(place: Place) -> None:
    assert (place.results / _CORE).read_text() == "mine"


def _own_summary(place: Place) -> None:
    mark = place.results / ".saereg.json"
    found = json.loads(mark.read_text())
    found["files"].remove("summary.csv")
    mark.write_text(json.dumps(found))
    (place.results / "summary.csv").write_text("mine")
    _remember(place)


def _summary_is_there(place: Place) -> None:
    assert (place.results / "summary.csv").read_text() == "mine"


FAULTS = [
    _refused(
        "a device that is not there",
        "--device cuda:99",
        r"Device 'cuda:99' (is not available|does not exist)",
    ),
    _refused(
        "a device that is not there, resumed",
        "--device cuda:99",
        r"Device 'cuda:99' (is not available|does not exist)",
        run=RESUMED,
    ),
    _refused("an unknown device", "--device tpu9", "Unknown device 'tpu9'"),
    _refused("a dtype without fractions", "--llm-dtype int8", "dtype 'int8'; expected"),
    _refused(
        "no held-out tokens",
        "--heldout-tokens 0",
        r"heldout_tokens is 0; expected an integer from 1",
    ),
    _refused(
        "fewer than no held-out tokens",
        "--heldout-tokens=-5",
        r"heldout_tokens is -5; expected an integer from 1",
    ),
    _refused(
        "more held-out tokens than there are",
        "--heldout-tokens 1000000000000",
        r"heldout_tokens is 1,000,000,000,000, but the held-out text .*Ask for fewer",
    ),
    _refused("a seed below 0", "--seed=-1", "seed is -1; expected an integer from 0"),
    _refused("no memory", "--memory-gib 0", "memory bound is 0.0 GiB; expected"),
    _refused(
        "a batch that nothing could hold",
        "--option core.eval_batch_size_prompts=99999999999",
        "core.eval_batch_size_prompts is 99999999999; expected a finite number of at most 65,536",
        row="message",
    ),
    _refused(
        "an infinite threshold",
        "--option cross_seed.shared_threshold=.inf",
        "cross_seed.shared_threshold is inf; expected a finite number of at most",
        row="message",
    ),
    Fault(
        name="results in a folder with the user's files",
        row="D3",
        arrange=_thesis,
        command=RUN.replace("{results}", "mine"),
        status=2,
        words="'mine' holds files that this package did not write: 'thesis'",
        holds=_thesis_is_there,
    ),
    Fault(
        name="a file of the user's with the name of a result",
        row="D3",
        arrange=_own_result,
        command=RUN,
        status=2,
        words=rf"{_CORE}' was not written by this package and would be replaced",
        holds=_own_result_is_there,
    ),
    Fault(
        name="results in a home folder that the shell did not name",
        row="D3",
        command=RUN.replace("{results}", "'~/results'"),
        status=2,
        words=r"'~/results' begins with '~', which the shell did not replace",
    ),
    Fault(
        name="plots in a folder with the user's files",
        row="D3",
        arrange=_thesis,
        command="plot {results} --out pictures",
        status=2,
        words="'pictures' holds files that this package did not write: 'pareto.png'",
        holds=_thesis_is_there,
    ),
    Fault(
        name="a user's summary.csv in a results folder",
        row="D3",
        arrange=_own_summary,
        command=RUN,
        status=2,
        words="summary.csv' was not written by this package and would be replaced",
        holds=_summary_is_there,
    ),
    Fault(
        name="results in the current folder",
        row="D3",
        command=RUN.replace("{results}", '""'),
        status=2,
        words="is the current folder; expected a folder of its own",
    ),
    Fault(
        name="the last attempt failed",
        row="D6",
        arrange=_failed_attempt,
        command="table {results}",
        status=0,
        words=rf"{_CORE} is of an earlier run: .*OSError: no \\x1b\[2J space",
    ),
    Fault(
        name="the last attempt failed, then the same run resumes",
        row="D6",
        arrange=_failed_attempt,
        command=RESUMED,
        status=0,
        words=r"4 of 4 results are current and kept.*Kept from earlier runs, since they are current: 4 results",
    ),
    Fault(
        name="results whose names begin with a dot",
        row="D15",
        arrange=_dot_names,
        command="table {results}",
        status=0,
        words="none-seed0.*none-seed1",
    ),
    Fault(
        name="a table next to a result is cut, resumed",
        row="D18",
        arrange=_cut_table,
        command=RESUMED,
        status=0,
        words="cross_seed: 0 of 2 results are current; 2 to do .1 without its table",
        holds=_tables_are_whole,
    ),
    Fault(
        name="a table next to a result is cut",
        row="D18",
        arrange=_cut_table,
        command="table {results}",
        status=0,
        words="none-seed0_stability.parquet' is not the one it was written with",
    ),
    Fault(
        name="a table next to a result is missing",
        row="D18",
        arrange=lambda place: (place.results / _TABLE).unlink(),
        command="table {results}",
        status=0,
        words="none-seed0_stability.parquet' is missing. Run it again",
    ),
    Fault(
        name="two results of one SAE",
        row="D21",
        arrange=_other_result,
        command="table {results}",
        status=2,
        words=rf"{_CORE}' and '.*other_eval_results.json' hold different results of 'core'",
    ),
    Fault(
        name="two results of one SAE, run again",
        row="D21",
        arrange=_other_result,
        command=RUN,
        status=2,
        words="other_eval_results.json' holds a result that this run writes into",
    ),
    Fault(
        name="a pipe named as a result",
        row="D26",
        arrange=_fifo,
        command="table {results}",
        status=2,
        words="pipe_eval_results.json' is no regular file",
    ),
    _table_refused("a metric of 1e999", "1e999", "cannot be read .1e999 is no finite"),
    _table_refused("a metric that is true", "true", ".*'sparsity/l0' = True; expected"),
    _table_refused(
        "a metric of 400 digits", "7" * 400, r".*'sparsity/l0' = 7+ \.\.\.; expected"
    ),
    _table_refused("a deeply nested result", "[" * 200_000, "cannot be read .maximum"),
    Fault(
        name="escape sequences in an id",
        row="message",
        arrange=lambda place: _edit(
            place, '"sae_lens_id": "none', '"sae_lens_id": "\\u001b[2J'
        ),
        command="table {results}",
        status=0,
        words=r"^[^\x1b]*\\x1b\[2J-seed0[^\x1b]*$",
    ),
    Fault(
        name="markup in the name of the results folder",
        row="message",
        command="run --sae-release {release} --out 'x[/red]y' --evals meta_structure "
        "--sae-id none-seed0 --option meta_structure.train_steps=2",
        status=0,
        words=r"All figures: x\[/red\]y/summary.csv",
    ),
    Fault(
        name="no results",
        row="message",
        arrange=lambda place: (place.here / "empty").mkdir(),
        command="table empty",
        status=2,
        words="'empty' holds no results; expected files named '.*_eval_results.json'",
    ),
]
