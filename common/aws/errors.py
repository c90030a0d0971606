"""What botocore raises, in words that say how to mend it.

At run time every failure of a service is a TransientError: credentials are renewed, permissions
and queues come back, and no document must be given up for them. At a role's start the same failure
is a PermanentError, so that what is set up wrongly is told at once (`common.ports.check`).
"""

from __future__ import annotations

from dataclasses import dataclass

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    InvalidRegionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from common.aws.regions import no_such_region, region_without_address
from common.ports.errors import PermanentError, TransientError


class AwsSetupError(PermanentError):
    """Region, credentials, names or permissions are wrong; the message says what to set."""


@dataclass(frozen=True, slots=True)
class Explained:
    """`misconfigured`: a person must change something; trying again does not help."""

    line: str
    misconfigured: bool


_MENDS = {
    "AccessDenied": "allow {operation} in the role's policy",
    "AccessDeniedException": "allow {operation} in the role's policy",
    "AllAccessDisabled": "allow {operation} in the role's policy",
    "ExpiredToken": "the credentials have expired: renew them",
    "ExpiredTokenException": "the credentials have expired: renew them",
    "RequestExpired": "the credentials have expired, or this machine's clock is wrong",
    "InvalidClientTokenId": "the access key is unknown: check AWS_ACCESS_KEY_ID",
    "UnrecognizedClientException": "the access key is unknown: check AWS_ACCESS_KEY_ID",
    "InvalidAccessKeyId": "the access key is unknown: check AWS_ACCESS_KEY_ID",
    "MissingAuthenticationToken": "the request is not signed: check the credentials",
    "MissingAuthenticationTokenException": "the request is not signed: check the credentials",
    "OptInRequired": "this account may not use the service: sign up for it, or check the account",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "InvalidSignatureException": "the secret key does not fit, or this machine's clock is wrong: "
    "check AWS_SECRET_ACCESS_KEY and the clock",
    "SignatureDoesNotMatch": "the secret key does not fit: check AWS_SECRET_ACCESS_KEY",
    "AuthFailure": "the credentials are refused: check AWS_ACCESS_KEY_ID and the secret",
    "PermanentRedirect": "the bucket lives in another region: set AWS_REGION to it",
    "AuthorizationHeaderMalformed": "the bucket lives in another region: set AWS_REGION to it",
    "IllegalLocationConstraintException": "the bucket lives in another region: set AWS_REGION",
    "AWS.SimpleQueueService.NonExistentQueue": "no such queue in this region and account: create "
    "it, or check its name and AWS_REGION",
    "QueueDoesNotExist": "no such queue in this region and account: create it, or check its name "
    "and AWS_REGION",
    "NoSuchBucket": "no such bucket: create it, or check its name",
    "ResourceNotFoundException": "no such table in this region and account: create it, or check "
    "its name and AWS_REGION",
}

_MENDS_OF_CREDENTIALS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    (
        (NoCredentialsError, PartialCredentialsError, ProfileNotFound),
        "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or run with a role",
    ),
    (
        (UnauthorizedSSOTokenError, SSOTokenLoadError, TokenRetrievalError),
        "sign in again (aws sso login), or check AWS_PROFILE",
    ),
    (
        (CredentialRetrievalError,),
        "check where AWS_PROFILE, or the role, takes its credentials from",
    ),
)


def explain(error: Exception, doing: str) -> Explained:
    """`doing` completes 'cannot …': `receive from ChangeQueue`."""
    if isinstance(error, ClientError):
        return _of_service(error, doing)
    if isinstance(error, NoRegionError):
        return Explained(f"cannot {doing}: no region is set: set AWS_REGION", True)
    if isinstance(error, InvalidRegionError):
        region = str(error.kwargs["region_name"])
        return Explained(f"cannot {doing}: {no_such_region(region)}", True)
    for kinds, mend in _MENDS_OF_CREDENTIALS:
        if isinstance(error, kinds):
            return Explained(f"cannot {doing}: {error}: {mend}", True)
    if isinstance(error, EndpointConnectionError | ConnectTimeoutError):
        mend = "check AWS_REGION, AWS_ENDPOINT_URL and the network"
        return Explained(f"cannot {doing}: {error}: {mend}", False)
    return Explained(f"cannot {doing}: {type(error).__name__}: {error}", False)


def code_of(error: ClientError) -> str:
    """The service's error code: `ThrottlingException`."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _of_service(error: ClientError, doing: str) -> Explained:
    code = code_of(error)
    said = str(error.response.get("Error", {}).get("Message", "")).strip()
    line = f"cannot {doing}: {code}" + (f": {said}" if said and said != code else "")
    mend = _MENDS.get(code)
    if mend is None:
        return Explained(line, False)
    return Explained(f"{line} ({mend.format(operation=error.operation_name)})", True)


def transient(error: Exception, doing: str) -> TransientError:
    """For the run time. Raise it `from error`."""
    return TransientError(explain(error, doing).line)


def at_start(error: Exception, doing: str) -> PermanentError | TransientError:
    """For `check`: what a person must mend is permanent."""
    explained = explain(error, doing)
    if explained.misconfigured:
        return AwsSetupError(explained.line)
    if region := region_without_address(error):
        return AwsSetupError(f"cannot {doing}: {error}: {no_such_region(region)}")
    return TransientError(explained.line)


SDK_ERRORS = (BotoCoreError, ClientError, TimeoutError)
"""What a call of the SDK may raise; translate them all."""
