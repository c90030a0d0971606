"""`postgres://…`: as `postgresql://…`, which the address is called just as often."""

from common.adapters.audit.postgresql import connect

__all__ = ["connect"]
