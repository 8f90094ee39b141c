"""What Kubeflow 2.17 refuses, and the words for it."""

import re
from typing import Any

from tests.fakes.kubeflow import cron

CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13}  # of gRPC, by status


class Refused(Exception):  # noqa: N818 - an answer, not a fault of the server
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def check_experiment(name: str | None) -> None:
    """Refuse a name of more than 128 bytes."""
    if len((name or "").encode()) > 128:
        place = "[ExperimentServer]: Failed to create a experiment due to conversion error"
        wrapped = "InternalServerError: Failed to convert API experiment to model experiment"
        why = "Invalid input error: Experiment.Name length cannot exceed 128"
        raise Refused(500, f"{place}: {wrapped}: {why}")


def check_parameters(kind: str, inputs: dict[str, Any], given: dict[str, Any]) -> None:
    """Refuse parameters that are missing, of another type, or not the pipeline's."""
    place = f"Failed to create a {kind}: Invalid input error"
    for name in sorted({name for name, facts in inputs.items() if "defaultValue" not in facts} - given.keys()):
        why = f"parameter {name} is not optional, yet has neither default value nor user provided value"
        raise Refused(400, f"{place}: {why}")
    types: dict[str, Any] = {"STRING": str, "LIST": list, "BOOLEAN": bool, "NUMBER_INTEGER": int}
    for name, value in given.items():
        wanted = inputs[name]["parameterType"] if name in inputs else ""
        if wanted and not isinstance(value, types[wanted]):
            raise Refused(400, f"{place}: input parameter {name} requires type {wanted.lower()}, but it is not of it")
    extra = sorted(given.keys() - inputs.keys())
    if extra:
        raise Refused(400, f"{place}: parameter(s) provided are not required by pipeline: {', '.join(extra)}")


def check_cron(text: str) -> None:
    """Refuse what robfig's cron of version 1 does not read."""
    try:
        cron.parse(text)
    except ValueError as error:
        place = "Failed to create a recurring run due to conversion error: Invalid input error"
        form = "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron)"
        raise Refused(400, f"{place}: {form}. Error: {error}") from None


def check_name(text: str) -> None:
    """Refuse a recurring run whose name leaves no name for its Kubernetes object."""
    left = re.sub(r"[^a-z0-9-]+", "", text.lower())[:25] or "job-"
    if not re.match(r"[a-z0-9]", left):
        what = f'ScheduledWorkflow.kubeflow.org "{left}x2x4z" is invalid: metadata.name: Invalid value: "{left}x2x4z"'
        raise Refused(500, f"Internal error: {what}: a lowercase RFC 1123 subdomain must start with a letter or digit")


def too_long(job: Any) -> str:
    """The column of a run or recurring run that its table does not hold; empty if it holds all."""
    trigger = getattr(job, "trigger", None)
    texts = {"DisplayName": job.display_name, "Description": job.description}
    texts["Schedule"] = trigger.cron_schedule.cron if trigger else ""
    return next((column for column, text in texts.items() if len(text or "") > 255), "")


def store_error(kind: str, job: Any) -> str:
    """What the database says of a text that is too long."""
    column = f"Error 1406 (22001): Data too long for column '{too_long(job)}' at row 1"
    return f"InternalServerError: Failed to store {kind} {job.display_name} to table: {column}"
