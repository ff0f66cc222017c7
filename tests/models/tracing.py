"""torch.compile without its code generator, which takes minutes."""

import pytest
import torch


def trace_alone(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """Let networks that are compiled be traced and run as traced; they are listed."""
    compiled: list[torch.nn.Module] = []

    def traced(network: torch.nn.Module) -> None:
        compiled.append(network)
        network._compiled_call_impl = torch.compile(network._call_impl, backend="eager")  # type: ignore[assignment]

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    return compiled
