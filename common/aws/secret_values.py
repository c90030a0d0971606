"""Reads the secrets that BLOOMWEAVER_SECRET_IDS names from AWS Secrets Manager, at a start.

Before the settings are made, and before a role has said where metrics are kept: so this imports
nothing that imports prometheus_client, and has a client of its own, which is closed again.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from common.aws.errors import SDK_ERRORS, AwsSetupError, at_start, code_of, explain
from common.aws.regions import impossible_region, no_such_region
from common.ports.errors import PortError, TransientError
from common.secret_environment import (
    PROCESS,
    SETTING,
    SecretEnvironment,
    UnusableSecretError,
    ids_set,
    variables_in,
)

DEADLINE_SECONDS = 15.0
"""Of all secrets together."""

_MENDS = {
    "ResourceNotFoundException": "there is no such secret in this region and account, or it has no "
    "value yet: put one, or check its name and AWS_REGION",
    "AccessDeniedException": "allow secretsmanager:GetSecretValue on it in the role's policy, and "
    "kms:Decrypt on its key",
    "DecryptionFailure": "allow kms:Decrypt on its key",
    "InvalidRequestException": "it is being deleted: restore it",
    "InvalidParameterException": "check its name",
    "ValidationException": "check its name",
}


async def read_secrets(environment: SecretEnvironment = PROCESS) -> None:
    """Place what the secrets hold, anew at each call. Raises UnusableSecretError, AwsSetupError and
    TransientError; then the environment is as it was."""
    ids = ids_set()
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            texts = await _texts(ids) if ids else []
    except TimeoutError:
        raise _no_answer() from None
    environment.place({one: variables_in(one, text) for one, text in zip(ids, texts, strict=True)})


def read_secrets_once(environment: SecretEnvironment = PROCESS) -> None:
    """As `read_secrets`, unless they were read; for callers with an event loop and without.

    It blocks, for a second more than DEADLINE_SECONDS at most: nothing else runs before there are
    settings. The second is for a name that is not resolved in time: that cannot be cancelled, and
    its thread is left behind. Raises as `read_secrets` does.
    """
    if environment.has_read(ids_set()):
        return
    done: Future[None] = Future()

    def read() -> None:
        try:
            done.set_result(asyncio.run(read_secrets(environment)))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=read, name="read-secrets", daemon=True).start()
    try:
        done.result(DEADLINE_SECONDS + 1.0)
    except TimeoutError:
        raise _no_answer() from None


def _no_answer() -> TransientError:
    return TransientError(
        f"{SETTING}: AWS Secrets Manager did not answer within {DEADLINE_SECONDS:g} s: check "
        "AWS_REGION, AWS_ENDPOINT_URL and the network"
    )


async def _texts(ids: Sequence[str]) -> list[str]:
    """In the order of the ids."""
    session = get_session()
    region = os.environ.get("AWS_REGION") or None
    try:
        context = session.create_client("secretsmanager", region_name=region, config=_config())
        async with context as client:
            where = client.meta
            if impossible_region(session, where.endpoint_url, where.region_name):
                raise AwsSetupError(f"{SETTING}: {no_such_region(where.region_name)}")
            return list(await asyncio.gather(*[_text(client, one) for one in ids]))
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        line = explain(error, "open the secretsmanager client").line
        raise AwsSetupError(f"{SETTING}: {line}") from None


async def _text(client: Any, secret_id: str) -> str:
    try:
        answer = await client.get_secret_value(SecretId=secret_id)
    except SDK_ERRORS as error:
        raise _told(error, secret_id) from None
    if "SecretString" not in answer:
        raise UnusableSecretError(f"{SETTING}: the secret {secret_id} is binary: make it text")
    return str(answer["SecretString"])


def _told(error: Exception, secret_id: str) -> PortError:
    doing = f"read the secret {secret_id}"
    if isinstance(error, ClientError) and (mend := _MENDS.get(code_of(error))):
        return AwsSetupError(f"{SETTING}: cannot {doing}: {code_of(error)}: {mend}")
    told = at_start(error, doing)
    return type(told)(f"{SETTING}: {told}")


def _config() -> AioConfig:
    return AioConfig(
        connect_timeout=3.0,
        read_timeout=5.0,
        retries={"mode": "standard", "total_max_attempts": 3},
        user_agent_extra="bloomweaver",
    )
