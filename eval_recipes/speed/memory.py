"""Peak memory of one training step, measured in a process of its own."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import psutil
import torch

from eval_recipes.speed.config import Shape
from saereg_plugin.machine import peak_memory_gib

_STEPS = 2


def peak_of(
    name: str, shape: Shape, *, autocast: bool, device: str, seed: int
) -> float:
    """
    Return the GiB that training takes at the most beyond what the process had before.

    A fresh process imports everything, notes its memory, builds weights and optimiser
    and trains two steps.

    Raises:
        RuntimeError: if that process fails; its last line of output is in the message.
    """
    command = [
        sys.executable,
        "-m",
        "eval_recipes.speed.memory",
        json.dumps([name, vars(shape), autocast, device, seed]),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RuntimeError(f"Measuring the memory of {name} failed: {last}")
    return float(done.stdout.strip().splitlines()[-1])


def _measure(
    name: str, shape: Shape, *, autocast: bool, device: str, seed: int
) -> float:
    from eval_recipes.speed.implementations import build_step

    # a step of the smallest size imports and initialises what is loaded lazily
    small = Shape(d_in=8, d_sae=64, k=2, batch=8)
    build_step(name, small, autocast=autocast, device=device, seed=seed)()
    before = reset_peak(device)
    step = build_step(name, shape, autocast=autocast, device=device, seed=seed)
    for _ in range(_STEPS):
        step()
    return peak_gib(device) - before


def reset_peak(device: str) -> float:
    """Forget earlier peaks where the system can; return the memory in use, in GiB."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device) / 2**30
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")
    return psutil.Process().memory_info().rss / 2**30


def peak_gib(device: str) -> float:
    """Return the most memory that the process had since ``reset_peak``, in GiB."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    return peak_memory_gib()


def main() -> None:
    """Measure what the one argument says; the last line of output is the figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work")
    name, shape, autocast, device, seed = json.loads(parser.parse_args().work)
    figure = _measure(name, Shape(**shape), autocast=autocast, device=device, seed=seed)
    sys.stdout.write(f"\n{figure}\n")


if __name__ == "__main__":
    main()
