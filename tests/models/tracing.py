"""torch.compile without its code generator, which takes minutes."""

import pytest
import torch


def trace_alone(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """Let networks that are compiled be traced and run as traced; they are listed."""
    compiled: list[torch.nn.Module] = []
    compile_network = torch.nn.Module.compile

    def traced(network: torch.nn.Module) -> None:
        compiled.append(network)
        compile_network(network, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    return compiled
