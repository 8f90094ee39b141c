"""Alpha as a budget over looks: the same test rows are asked week after week.

Every look at the test rows may promote a model that is no better. With a fixed 0.05 a week, half a year promotes such a
model more often than not. A spending function says how much of alpha is used up after each look (Lan & DeMets 1983);
ours is linear in the looks (the power family of Kim & DeMets 1987 with exponent 1): each look of a horizon of H has
alpha / H. The levels add up to alpha, so whatever the dependence between the looks - the rows are the same, the models
are related, the test set grows - the probability of a wrong promotion within a horizon is at most alpha.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """One comparison of a challenger with the champion on test rows, as it was recorded."""

    horizon: int  # looks that alpha was to last for
    alpha: float
    number: int  # within its horizon, from 1
    opening: int = 1  # which horizon of the model it belongs to, from 1


@dataclass(frozen=True)
class Budget:
    """The share of alpha of the next look."""

    look: Look
    spent: float  # with this look
    opened: str  # why a new horizon begins with it; empty where it does not

    @property
    def level(self) -> float:
        """The significance level of this look."""
        return level(self.look.alpha, self.look.horizon)


def level(alpha: float, horizon: int) -> float:
    """Return the share of `alpha` of each of `horizon` looks."""
    return alpha / horizon


def next_look(past: Sequence[Look], alpha: float, horizon: int) -> Budget:
    """The next look's share of the budget.

    A new horizon begins when the looks of the last one are used up, and when the user asks for another alpha or
    horizon; nothing else refills the budget.

    Args:
        past: All looks of the model so far, in any order; those of failed runs are among them. They are counted, for
            the clocks of runs that look at the same time say nothing of who looked last.
        alpha: Probability of a wrong promotion within a horizon.
        horizon: Looks that it is to last for, at least 1.
    """
    opening = max((look.opening for look in past), default=0)
    looks = [look for look in past if look.opening == opening]
    last = looks[-1] if looks else None
    used = max([len(looks), *(look.number for look in looks)])  # a number may be missing: its record is gone
    if last is None:
        opened = "the first look"
    elif (last.alpha, last.horizon) != (alpha, horizon):
        opened = f"alpha {last.alpha:g} over {last.horizon} looks was changed to {alpha:g} over {horizon}"
    elif used >= horizon:
        opened = f"the {horizon} looks of the last horizon were used up"
    else:
        opened = ""
    number = 1 if opened else used + 1
    look = Look(horizon, alpha, number, opening + bool(opened))
    return Budget(look, number * level(alpha, horizon), opened)
