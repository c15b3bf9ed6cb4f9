"""
SAELens' command line with the architectures of this package.

    python -m saereg_plugin --architecture regularized_topk
        --regularizers '{"name": "weight_penalty", "coefficient": 1e-5}' ...

SAELens' own command never imports this package, so it does not know them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sae_lens import LanguageModelSAETrainingRunner
from sae_lens.llm_sae_training_runner import _parse_cfg_args

from saereg_plugin.check_run import UNPROBED_CLASSES, check
from saereg_plugin.errors import InputError
from saereg_plugin.process import end_process
from saereg_plugin.sources import models


def main(arguments: Sequence[str]) -> None:
    """Read the arguments as SAELens does, check them, and train."""
    try:
        cfg = _parse_cfg_args(arguments)
        check(cfg)
        if cfg.model_class_name not in UNPROBED_CLASSES:
            models.ensure(cfg.model_name, model_class_name=cfg.model_class_name)
    except (InputError, argparse.ArgumentError) as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    LanguageModelSAETrainingRunner(cfg).run()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    finally:
        end_process(sys.exc_info()[1])
