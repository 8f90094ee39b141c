"""Taking a look at the test rows: a number of the budget that no other run can take, whichever machine it is on.

MLflow has no lock, but a parameter of a run is written once: the store refuses another value for the same name. So
`look.OPENING.NUMBER` in a run that all share, the register, belongs to whoever writes it first, and a kill after that
has spent the look. MLflow can't make a run only where there is none: several runs that start together may make a
register each. Everyone makes its own before it reads, so any two have one in common, and a number is taken by whoever
wins it in all registers that it sees.
"""

import json
from dataclasses import asdict
from typing import Any

from components.core.evidence.alpha_spending import Budget, Look, level, next_look
from components.core.storage import home_folder
from components.core.tracking import queries, tag_names
from components.core.tracking.service import connection

KIND = "looks"


def take(model: str, owner: str, alpha: float, horizon: int) -> Budget:
    """Take the next look from the budget of a model; it counts from here on, whatever becomes of the run.

    Args:
        model: Whose test rows are looked at.
        owner: Who looks at what: a step that is done again looks at the same models, and has one look.
        alpha: Probability of a wrong promotion within a horizon.
        horizon: Looks that it is to last for.
    """
    with home_folder.locked(home_folder.home() / f"{model}.looks.lock"):  # spares runs of one home the contest
        while True:
            if known := _had(model, owner):
                return known
            registers = _registers(model) or [_new_register(model), *_registers(model)]
            budget = next_look(_taken(model), alpha, horizon)
            name = f"look.{budget.look.opening}.{budget.look.number}"
            value = json.dumps({**asdict(budget.look), "run": owner, "opened": budget.opened})
            if all(queries.claim(register, name, value) for register in sorted(set(registers))):
                return budget


def _had(model: str, owner: str) -> Budget | None:
    """The look that an owner has taken already, whose number it has, or still gets, in all registers."""
    claims: dict[str, list[dict[str, Any]]] = {}
    for params in queries.params_of(model, KIND, deleted=True).values():
        for name, text in params.items():
            if name.startswith("look."):
                claims.setdefault(name, []).append(json.loads(text))
    for name, found in claims.items():
        mine = all(claim["run"] == owner for claim in found)
        if mine and all(queries.claim(register, name, json.dumps(found[0])) for register in _registers(model)):
            look = Look(*(found[0][name] for name in ("horizon", "alpha", "number", "opening")))
            return Budget(look, look.number * level(look.alpha, look.horizon), found[0].get("opened", ""))
    return None


def _new_register(model: str) -> str:
    tags = {tag_names.RUN_NAME: KIND, tag_names.KIND: KIND, tag_names.MODEL: model}
    run = connection.client().create_run(connection.own_experiment(model), tags=tags)
    connection.client().set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _registers(model: str) -> list[str]:
    return list(queries.params_of(model, KIND))


def _taken(model: str) -> list[Look]:
    """All looks so far: those that runs are tagged with, and claims of runs that were cut off before that."""
    tagged = [Look(**json.loads(text)) for text in queries.recorded(model, tag_names.LOOK)]
    known = {(look.opening, look.number) for look in tagged}
    claims = [
        json.loads(value)
        for params in queries.params_of(model, KIND, deleted=True).values()  # deleting a register refills nothing
        for name, value in params.items()
        if name.startswith("look.")
    ]
    looks = {Look(claim["horizon"], claim["alpha"], claim["number"], claim["opening"]) for claim in claims}
    return [*tagged, *(look for look in looks if (look.opening, look.number) not in known)]
