"""SAEBench's evaluations that do not run with the packages this one needs, and why."""

from __future__ import annotations

from types import MappingProxyType

UNAVAILABLE = MappingProxyType(
    {
        "ravel": (
            "SAEBench 0.6 downloads its prompts with an argument that huggingface-hub has "
            "dropped (local_dir_use_symlinks), and with transformers 5, whose decoder layers "
            "return a tensor, it takes the first row of a batch for the whole of it and its "
            "interventions stop with 'Unexpected output shape'; it also knows only "
            "gemma-2-2b and pythia-160m-deduped"
        ),
        "unlearning": (
            "SAEBench 0.6 has prompts for gemma-2 instruct models only, and reads gated data "
            "(WMDP's bio-forget-corpus) at a path relative to the working folder, "
            "./sae_bench/evals/unlearning/data/bio-forget-corpus.jsonl"
        ),
        "mdl": (
            "SAEBench 0.6 imports loguru, which it does not declare, reads a global 'config' "
            "that exists only when its file is run as a script, needs CUDA (.cuda()), and "
            "writes no result in SAEBench's format"
        ),
    }
)
"""Name -> reason; measured with sae-bench 0.6.0, transformers 5.23, huggingface-hub 2.4."""
