"""The built-in tasks: modules that satisfy the contract in `components/core/contract.py`."""

from components.core.contract import Target, Task, load_task

__all__ = ["Target", "Task", "load_task"]
