"""Whether AWS has a region of a name, as far as can be told without a call.

A name that fits the pattern of no partition cannot be a region's. One that fits and that botocore
does not know may be newer than botocore: it counts as misspelt only where its host has no address.
Where `AWS_ENDPOINT_URL` names somebody else's service, regions are called as they like it there.
"""

from __future__ import annotations

import socket
from difflib import get_close_matches
from functools import cache
from urllib.parse import urlsplit

from botocore.exceptions import EndpointConnectionError, UnknownRegionError
from botocore.session import Session, get_session

__all__ = ["impossible_region", "no_such_region", "region_without_address"]

_EVERYWHERE = "ec2"
"""A service that every region has."""


def impossible_region(session: Session, endpoint_url: str, region: str) -> bool:
    """Whether a client's endpoint is in a region that cannot be."""
    labels = _labels_of_aws(endpoint_url)
    return region.lower() in labels and _partition_of(session, region) is None


def region_without_address(error: Exception) -> str | None:
    """The region that botocore does not know whose host has no address, if that is the error."""
    if not isinstance(error, EndpointConnectionError):
        return None
    cause = error.kwargs.get("error")
    if not isinstance(getattr(cause, "os_error", cause), socket.gaierror):
        return None
    for label in reversed(_labels_of_aws(str(error.kwargs["endpoint_url"]))):
        if partition := _partition_of(_own_session(), label):
            return None if label in _known(partition) else label
    return None


def no_such_region(region: str) -> str:
    """What is wrong and its mend, with the regions that are called nearly so."""
    every = [name for part in _own_session().get_available_partitions() for name in _known(part)]
    near = " or ".join(sorted(get_close_matches(region.lower(), every, n=2, cutoff=0.8)))
    return f"AWS has no region {region!r}: set AWS_REGION" + (f" ({near}?)" if near else "")


def _labels_of_aws(url: str) -> list[str]:
    """Of the host, in small letters, if it is one of AWS's own; else []."""
    labels = (urlsplit(url).hostname or "").split(".")
    return labels if "amazonaws" in labels or labels[-2:] == ["api", "aws"] else []


def _partition_of(session: Session, region: str) -> str | None:
    try:
        return str(session.get_partition_for_region(region))
    except UnknownRegionError:
        return None


def _known(partition: str) -> list[str]:
    return [*_own_session().get_available_regions(_EVERYWHERE, partition_name=partition)]


@cache
def _own_session() -> Session:
    """Only its data are used: aiobotocore's session gives the list of regions by a coroutine."""
    return get_session()
