"""The built-in tasks: modules that satisfy the contract in `components/core/contract/task.py`."""

from components.core.contract.task import Target, Task, load_task

__all__ = ["Target", "Task", "load_task"]
