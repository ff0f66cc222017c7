"""Properties of the average of weights in training."""

import io

import pytest
import torch

from spin.errors import ModelError
from spin.training.ema import averaged, load_ema, make_ema


def walk(parameters: list[torch.nn.Parameter], step: int) -> None:
    with torch.no_grad():
        for index, parameter in enumerate(parameters):
            parameter.add_(torch.full_like(parameter, 0.1 * (step + 1) * (index + 1)))


def start() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 2), (4,))]


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99])
def test_the_average_after_n_updates_is_the_closed_form(decay: float) -> None:
    parameters, num_updates = start(), 7
    ema = make_ema(parameters, decay)
    history = [[parameter.detach().double().clone() for parameter in parameters]]
    for step in range(num_updates):
        walk(parameters, step)
        ema.step(parameters)
        history.append([parameter.detach().double().clone() for parameter in parameters])
    for index, average in enumerate(ema.shadow_params):
        expected = decay**num_updates * history[0][index]
        for update in range(1, num_updates + 1):
            expected += (1 - decay) * decay ** (num_updates - update) * history[update][index]
        torch.testing.assert_close(average.double(), expected, rtol=1e-6, atol=1e-6)


def test_a_saved_average_continues_to_the_bit() -> None:
    whole, parameters = start(), start()
    unbroken, first = make_ema(whole, 0.9), make_ema(parameters, 0.9)
    for step in range(6):
        walk(whole, step)
        unbroken.step(whole)
    for step in range(3):
        walk(parameters, step)
        first.step(parameters)
    stream = io.BytesIO()
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    resumed = make_ema(parameters, 0.9)
    load_ema(resumed, torch.load(stream, weights_only=True))
    for step in range(3, 6):
        walk(parameters, step)
        resumed.step(parameters)
    assert all(map(torch.equal, unbroken.shadow_params, resumed.shadow_params))
    with pytest.raises(ModelError, match="delete the step checkpoint"):
        load_ema(make_ema(parameters[:1], 0.9), first.state_dict())


def test_the_average_stands_in_for_a_while_and_the_weights_come_back_to_the_bit() -> None:
    parameters = start()
    ema = make_ema(parameters, 0.9)
    walk(parameters, 0)
    ema.step(parameters)
    before = [parameter.detach().clone() for parameter in parameters]
    with averaged(ema, parameters):
        assert all(map(torch.equal, parameters, ema.shadow_params))
        assert not any(map(torch.equal, parameters, before))
    assert all(map(torch.equal, parameters, before))
    with averaged(None, parameters):
        assert all(map(torch.equal, parameters, before))
