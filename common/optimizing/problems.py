"""What can stand in the way of a faster graph. Messages say what to do about it."""

from __future__ import annotations


class OptimizationError(Exception):
    """No graph was written."""


class UnsuitableModelError(OptimizationError):
    """The model's graph cannot be made faster this way."""


class AgreementTooLowError(OptimizationError):
    """No graph agrees well enough with the original; the message has the figures."""


class TargetExistsError(OptimizationError):
    """The folder to write is there already."""
