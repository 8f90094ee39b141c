"""What differs between problems: a task is a module that satisfies the contract, `components/core/contract.py`."""

from components.core.contract import Target, Task, load_task

__all__ = ["Target", "Task", "load_task"]
