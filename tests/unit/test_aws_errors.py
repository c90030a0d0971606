"""What the SDK raises, and whether a person has to mend it."""

from __future__ import annotations

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    SSOTokenLoadError,
    TokenRetrievalError,
    UnauthorizedSSOTokenError,
)

from common.aws.errors import AwsSetupError, at_start, transient
from common.ports.errors import TransientError


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "no"}}, "GetItem")


@pytest.mark.parametrize(
    ("code", "mend"),
    [
        ("AccessDenied", "allow GetItem"),
        ("InvalidSignatureException", "check AWS_SECRET_ACCESS_KEY and the clock"),
        ("MissingAuthenticationToken", "check the credentials"),
        ("MissingAuthenticationTokenException", "check the credentials"),
        ("OptInRequired", "sign up for it"),
        ("RequestTimeTooSkewed", "clock is wrong: set it"),
    ],
)
def test_a_refusal_that_a_person_mends(code: str, mend: str) -> None:
    told = at_start(refusal(code), "read")
    assert isinstance(told, AwsSetupError)
    assert f"cannot read: {code}: no (" in str(told)
    assert mend in str(told)
    assert isinstance(transient(refusal(code), "read"), TransientError), "no document is given up"


@pytest.mark.parametrize(
    ("error", "mend"),
    [
        (UnauthorizedSSOTokenError(), "aws sso login"),
        (SSOTokenLoadError(error_msg="none"), "aws sso login"),
        (TokenRetrievalError(provider="sso", error_msg="none"), "aws sso login"),
        (CredentialRetrievalError(provider="process", error_msg="none"), "AWS_PROFILE"),
    ],
)
def test_credentials_that_cannot_be_had(error: BotoCoreError, mend: str) -> None:
    told = at_start(error, "read")
    assert isinstance(told, AwsSetupError)
    assert mend in str(told)


@pytest.mark.parametrize("code", ["ThrottlingException", "InternalError", "ServiceUnavailable"])
def test_what_passes_by_itself(code: str) -> None:
    assert isinstance(at_start(refusal(code), "read"), TransientError)
