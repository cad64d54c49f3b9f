"""A budget of requests: so many per second, and some at once."""

from __future__ import annotations

from gpuqueue.launchers.kubernetes.follow.budget import Budget


def test_a_budget_is_spent_and_fills_up_to_its_most() -> None:
    now = 0.0
    budget = Budget(2.0, 5.0, lambda: now)
    assert [budget.take() for _ in range(6)] == [True] * 5 + [False]
    now = 1.0
    assert [budget.take(2), budget.take()] == [True, False]
    now = 1000.0
    assert sum(budget.take() for _ in range(100)) == 5
