"""Several processes without DDP: what one writes by hand with accelerate."""

import torch
import torch.distributed as dist
from accelerate import Accelerator

from benchmarks.speed.ours import set_up
from benchmarks.speed.subjects import Turns
from spin.params.schema import Params
from spin.runtime.devices import process_state
from spin.training.prefetch import Prefetch
from spin.training.steps import micro_step


def without_overlap(params: Params, turns: Turns, variant: str) -> None:
    """Our training, but the gradients are averaged parameter by parameter once the last backward pass has ended."""
    state, recipe = set_up(params)
    device, processes, step = process_state().device, process_state().num_processes, 0
    accelerator = Accelerator()
    with Prefetch(recipe.draw_batch, 10**9, device) as draw_batch:
        while (order := turns.wait()) is not None:
            for _ in range(order.amount):
                batch, opponent = draw_batch(step), recipe.opponent_of(step)
                for part in batch.micro_batches(order.size):
                    share = part.num_rows / batch.num_rows

                    def backward(loss: torch.Tensor, last: bool, share: float = share) -> None:
                        accelerator.backward(loss * share)

                    with accelerator.autocast():
                        micro_step(
                            recipe.predict,
                            state.player,
                            opponent,
                            part.to(device),
                            recipe.objective,
                            backward,
                        )
                for parameter in state.trainable:
                    assert parameter.grad is not None
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= processes
                torch.nn.utils.clip_grad_norm_(state.trainable, recipe.max_grad_norm).item()
                state.optimizer.step()
                state.optimizer.zero_grad(set_to_none=True)
                step += 1
            turns.finish(order.amount * params.training.batch_size // processes)
