"""Thawline from Python: run the pipeline, ask a registered model, list the models.

The functions do what the commands of the same names do, with the same settings, home folder and registry.
"""

from thawline.api import Model, Result, load, models, run

__all__ = ["Model", "Result", "load", "models", "run"]
