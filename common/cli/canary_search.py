"""What a canary demands of searches; apart, so that the command line can name it at no cost."""

from __future__ import annotations

from enum import StrEnum


class Search(StrEnum):
    REQUIRED = "required"
    """A service that cannot search is a failure."""
    AUTO = "auto"
    """One that cannot is asked for what searches would see."""
