"""Memory of this machine."""

from __future__ import annotations

from saereg_plugin import machine


def test_freed_memory_goes_back_to_the_system() -> None:
    kept = []
    # small blocks that stay between large ones that go
    for _ in range(200):
        large = bytearray(b"x") * 100_000
        kept.append(b"y" * 1000)
        del large
    before = machine.resident_bytes()
    machine.return_freed_memory()
    assert 0 < machine.resident_bytes() <= before
