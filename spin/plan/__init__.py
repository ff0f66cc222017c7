"""What a run will cost, before anyone spends money: counted from the parameters, with FLOPs read off the real layers."""

from spin.plan.estimate import Plan, make_plan

__all__ = ["Plan", "make_plan"]
