"""The instance metadata service of EC2, version 2: what a machine is told about itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from common.ports.errors import TransientError

if TYPE_CHECKING:
    import aiohttp

__all__ = ["InstanceMetadata", "endpoint_of"]

IPV4, IPV6 = "http://169.254.169.254", "http://[fd00:ec2::254]"
TOKEN_SECONDS = 21600
RENEWED_BEFORE_SECONDS = 60.0
CONNECT_SECONDS = 1.0
ANSWER_SECONDS = 2.0
_TOKEN, _LIFETIME = "X-aws-ec2-metadata-token", "X-aws-ec2-metadata-token-ttl-seconds"


def endpoint_of(environment: Mapping[str, str]) -> str | None:
    """Where the service would be, by the variables that AWS's SDKs read; None: turned off."""
    if environment.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return None
    mode = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").lower()
    given = environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "")
    return (given or (IPV6 if mode == "ipv6" else IPV4)).rstrip("/")


class InstanceMetadata:
    """One machine's. Every request ends within three seconds; proxies are not asked."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None
        self._token = ""
        self._token_until = 0.0

    async def get(self, path: str) -> str | None:
        """The value of `path` below meta-data; None while there is none.

        Raises TransientError when the service does not answer as it should.
        """
        status, text = await self._value(path)
        if status == 401:
            self._token_until = 0.0
            status, text = await self._value(path)
        if status not in (200, 404):
            raise TransientError(f"the instance metadata service answered {status} for {path}")
        return text if status == 200 else None

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def _value(self, path: str) -> tuple[int, str]:
        headers = {_TOKEN: await self._valid_token()}
        return await self._request("GET", f"/latest/meta-data/{path}", headers)

    async def _valid_token(self) -> str:
        now = asyncio.get_running_loop().time()
        if now >= self._token_until:
            headers = {_LIFETIME: str(TOKEN_SECONDS)}
            status, text = await self._request("PUT", "/latest/api/token", headers)
            if status != 200:
                raise TransientError(f"the instance metadata service gives no token: {status}")
            self._token = text
            self._token_until = now + TOKEN_SECONDS - RENEWED_BEFORE_SECONDS
        return self._token

    async def _request(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
        import aiohttp  # not where nobody asks, as in a fleet's workers

        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
            self._session = aiohttp.ClientSession(timeout=timeout)
        url = self._endpoint + path
        try:
            async with self._session.request(method, url, headers=headers) as answer:
                return answer.status, await answer.text()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise TransientError(f"the instance metadata service: {reason}") from error
