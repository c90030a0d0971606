"""Signatures of webhooks: the schemes' own examples, what is refused, and that nothing that was
changed on the way verifies."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from webhook.signatures import (
    MAX_SIGNATURES,
    Basic,
    Headers,
    PlainHmac,
    SharedToken,
    SignatureError,
    StandardWebhooks,
    StandardWebhooksPublic,
    TimestampedHmac,
    Unverified,
    Verification,
    github,
    standard_public_key,
    standard_secret,
)

NOW = 1_750_000_000.0
BODY = b'{"type": "page.updated", "n": 1}'
OLD, NEW = b"the-secret-of-last-year", b"the-secret-of-this-year"

SCHEMES: dict[str, Verification] = {
    "standard": StandardWebhooks((NEW, OLD)),
    "svix": StandardWebhooks((NEW, OLD), prefix="svix-"),
    "github": github((NEW, OLD)),
    "stripe": TimestampedHmac((NEW, OLD)),
    "sanity": TimestampedHmac((NEW, OLD), "sanity-webhook-signature", "base64url", True),
    "hmac-base64": PlainHmac((NEW, OLD), "x-signature", encoding="base64", digest="sha512"),
    "token": SharedToken((NEW, OLD)),
    "basic": Basic((NEW, OLD), "sender"),
}
SIGNS_BODY = [name for name in SCHEMES if name not in ("token", "basic")]
SIGNS_TIME = ["standard", "svix", "stripe", "sanity"]


def signed(name: str, body: bytes = BODY, *, at: float = NOW) -> dict[str, list[str]]:
    headers = SCHEMES[name].sign(body, delivery_id="msg_1", now=at)
    return {key: [value] for key, value in headers.items()}


def verifies(scheme: Verification, headers: Headers, body: bytes, *, now: float = NOW) -> bool:
    try:
        scheme.verify(headers, body, now=now)
    except SignatureError:
        return False
    return True


# --- what others say is right --------------------------------------------------------------------


def test_the_example_of_standard_webhooks() -> None:
    key = standard_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = {
        "webhook-id": ["msg_p5jXN8AQM9LWM0D4loKWxJek"],
        "webhook-timestamp": ["1614265330"],
        "webhook-signature": ["v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="],
    }
    body = b'{"test": 2432232314}'
    StandardWebhooks((key,)).verify(headers, body, now=1614265330.0)
    assert not verifies(StandardWebhooks((key,)), headers, body + b" ", now=1614265330.0)


def test_the_example_of_github() -> None:
    signature = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    headers = {"x-hub-signature-256": [f"sha256={signature}"]}
    github((b"It's a Secret to Everybody",)).verify(headers, b"Hello, World!", now=NOW)


def test_a_signature_as_stripe_writes_it() -> None:
    digest = hmac.new(b"whsec_of_stripe", b"1750000000." + BODY, hashlib.sha256).hexdigest()
    headers = {"stripe-signature": [f"t=1750000000,v1={'0' * 64},v1={digest},v0={'1' * 64}"]}
    TimestampedHmac((b"whsec_of_stripe",)).verify(headers, BODY, now=NOW)


def test_a_signature_as_sanity_writes_it() -> None:
    digest = hmac.new(b"a sanity secret", b"1750000000123." + BODY, hashlib.sha256).digest()
    text = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    headers = {"sanity-webhook-signature": [f"t=1750000000123,v1={text}"]}
    scheme = TimestampedHmac((b"a sanity secret",), "sanity-webhook-signature", "base64url", True)
    scheme.verify(headers, BODY, now=NOW)


def test_the_example_of_basic_authentication() -> None:
    headers = {"authorization": ["Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="]}
    Basic((b"open sesame",), "Aladdin").verify(headers, b"", now=NOW)
    assert not verifies(Basic((b"open sesame",), "aladdin"), headers, b"")


@pytest.mark.parametrize("text", [f"{'A' * 22}", f"{'A' * 22}==", f"whsec_{'A' * 22}=="])
def test_a_standard_secret_is_read_as_every_sender_writes_it(text: str) -> None:
    assert standard_secret(text) == bytes(16)


@pytest.mark.parametrize("text", ["whsec_not base64", "whsec_a-b_", "ä"])
def test_what_is_no_standard_secret_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        standard_secret(text)


# --- what is let in ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("body", [b"", BODY, b"\xff\0 not text \r\n", b"x" * 100_000])
def test_what_a_sender_signs_verifies_on_its_raw_bytes(name: str, body: bytes) -> None:
    SCHEMES[name].verify(signed(name, body), body, now=NOW)


@pytest.mark.parametrize("name", SCHEMES)
def test_each_of_several_secrets_is_good_while_one_replaces_another(name: str) -> None:
    scheme = SCHEMES[name]
    for secret in (OLD, NEW):
        alone = type(scheme)(**{**_fields(scheme), "secrets": (secret,)})
        headers = {k: [v] for k, v in alone.sign(BODY, delivery_id="m", now=NOW).items()}
        assert verifies(scheme, headers, BODY)
    stranger = type(scheme)(**{**_fields(scheme), "secrets": (b"another secret",)})
    headers = {k: [v] for k, v in stranger.sign(BODY, delivery_id="m", now=NOW).items()}
    assert not verifies(scheme, headers, BODY)


def _fields(scheme: Verification) -> dict[str, object]:
    return {name: getattr(scheme, name) for name in type(scheme).__slots__}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["standard", "svix"])
def test_one_of_several_signatures_is_enough(name: str) -> None:
    headers = signed(name)
    key = next(key for key in headers if key.endswith("signature"))
    headers[key] = [f"v1a,{'A' * 86}== v1 v1,%%% v1,{'A' * 43}= {headers[key][0]}"]
    assert verifies(SCHEMES[name], headers, BODY)


@pytest.mark.parametrize("name", SIGNS_TIME)
@pytest.mark.parametrize(
    ("seconds", "good"), [(299, True), (301, False), (-299, True), (-301, False)]
)
def test_a_signature_holds_five_minutes_either_way(name: str, seconds: int, good: bool) -> None:
    assert verifies(SCHEMES[name], signed(name, at=NOW), BODY, now=NOW + seconds) is good


# --- by a public key -----------------------------------------------------------------------------

KEYS = [Ed25519PrivateKey.from_private_bytes(bytes([n] * 32)) for n in (1, 2, 3)]
PUBLIC = [key.public_key().public_bytes_raw() for key in KEYS]


def signed_by(key: Ed25519PrivateKey, body: bytes = BODY, *, at: float = NOW) -> Headers:
    signature = base64.b64encode(key.sign(f"m1.{int(at)}.".encode() + body)).decode()
    return {
        "webhook-id": ["m1"],
        "webhook-timestamp": [str(int(at))],
        "webhook-signature": [f"v1,{'A' * 43}= v1a,{signature}"],
    }


def test_a_signature_of_any_of_the_sources_public_keys_is_right() -> None:
    scheme = StandardWebhooksPublic(tuple(PUBLIC[:2]))
    assert verifies(scheme, signed_by(KEYS[0]), BODY)
    assert verifies(scheme, signed_by(KEYS[1]), BODY)
    assert not verifies(scheme, signed_by(KEYS[2]), BODY)
    assert not verifies(scheme, signed_by(KEYS[0]), BODY + b" ")
    assert not verifies(scheme, {**signed_by(KEYS[0]), "webhook-id": ["m2"]}, BODY)
    assert not verifies(scheme, signed_by(KEYS[0], at=NOW - 301), BODY)


def test_a_symmetric_signature_is_none_of_a_public_key() -> None:
    """Whoever knows the public key could make one with it as the secret."""
    symmetric = StandardWebhooks((PUBLIC[0],))
    headers = {k: [v] for k, v in symmetric.sign(BODY, delivery_id="m1", now=NOW).items()}
    assert verifies(symmetric, headers, BODY)
    with pytest.raises(SignatureError, match="no signature of the form"):
        StandardWebhooksPublic((PUBLIC[0],)).check_headers(headers, now=NOW)


def test_public_keys_as_they_are_written() -> None:
    written = base64.b64encode(PUBLIC[0]).decode()
    assert standard_public_key(f"whpk_{written}") == PUBLIC[0]
    assert standard_public_key(f"whpk_{written.rstrip('=')}") == PUBLIC[0]
    for wrong in (written, f"whsk_{written}", "whpk_", f"whpk_{written[:-4]}", "whpk_%"):
        with pytest.raises(ValueError):
            standard_public_key(wrong)


# --- what is not ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCHEMES)
def test_nothing_verifies_without_its_headers_or_with_one_of_them_twice(name: str) -> None:
    whole = signed(name)
    for missing in whole:
        assert not verifies(SCHEMES[name], {**whole, missing: []}, BODY)
        assert not verifies(SCHEMES[name], {**whole, missing: [""]}, BODY)
        assert not verifies(SCHEMES[name], {**whole, missing: whole[missing] * 2}, BODY)
        rest = {key: value for key, value in whole.items() if key != missing}
        assert not verifies(SCHEMES[name], rest, BODY)


@pytest.mark.parametrize("name", SIGNS_TIME)
@pytest.mark.parametrize(
    "time",
    ["", "x", "1750000000.5", "-1", "١٧٥٠٠٠٠٠٠٠", "²", "1" * 17, "1" * 5000, " 1750000000"],
)
def test_a_time_that_is_no_whole_number_is_refused(name: str, time: str) -> None:
    headers = signed(name)
    for key, (value,) in headers.items():
        if key.endswith("timestamp"):
            headers[key] = [time]
        elif value.startswith("t="):
            headers[key] = [f"t={time},{value.partition(',')[2]}"]
    assert not verifies(SCHEMES[name], headers, BODY)


def test_the_parts_of_what_is_signed_cannot_be_shifted() -> None:
    """`a` with the time 1 and `a.1` with another time would otherwise be signed alike."""
    scheme = StandardWebhooks((NEW,))
    signature = scheme.sign(b"2.rest", delivery_id="a", now=NOW)["webhook-signature"]
    shifted = {
        "webhook-id": [f"a.{int(NOW)}"], "webhook-timestamp": ["2"],
        "webhook-signature": [signature],
    }  # fmt: skip
    assert not verifies(scheme, shifted, b"rest", now=2.0)
    with pytest.raises(SignatureError, match="no dot"):
        scheme.verify(shifted, b"rest", now=2.0)


def test_no_more_than_a_bounded_number_of_signatures_is_looked_at() -> None:
    headers = signed("standard")
    filler = " ".join([f"v1,{'A' * 43}="] * MAX_SIGNATURES)
    headers["webhook-signature"] = [f"{filler} {headers['webhook-signature'][0]}"]
    assert not verifies(SCHEMES["standard"], headers, BODY)


def test_a_header_of_any_length_is_refused_by_its_length() -> None:
    headers = {**signed("github"), "x-hub-signature-256": ["sha256=" + "0" * 100_000]}
    with pytest.raises(SignatureError, match="longer than"):
        SCHEMES["github"].verify(headers, BODY, now=NOW)


@pytest.mark.parametrize("name", ["token", "basic"])
def test_a_secret_is_compared_whole(name: str) -> None:
    (key, (value,)) = next(iter(signed(name).items()))
    for wrong in (value[:-1], value + "x", value.upper(), value.partition(" ")[2], "Bearer "):
        assert not verifies(SCHEMES[name], {key: [wrong]}, BODY)


def test_errors_and_representations_tell_no_secret() -> None:
    for name, scheme in SCHEMES.items():
        assert "the-secret" not in repr(scheme)
        for headers in ({}, signed(name), {key: ["x"] for key in signed(name)}):
            if name in ("token", "basic") and headers == signed(name):
                continue  # the secret itself
            with pytest.raises(SignatureError) as refused:
                scheme.verify(headers, b"other", now=NOW)
            assert "the-secret" not in str(refused.value)
            assert refused.value.challenge


def test_a_source_that_is_not_verified_takes_everything() -> None:
    assert verifies(Unverified(), {}, b"anything")


# --- whatever is changed -------------------------------------------------------------------------


@given(name=st.sampled_from(SIGNS_BODY), body=st.binary(max_size=64), other=st.binary(max_size=64))
def test_a_signature_is_of_one_body(name: str, body: bytes, other: bytes) -> None:
    assert verifies(SCHEMES[name], signed(name, body), other) is (body == other)


@given(
    name=st.sampled_from(sorted(SCHEMES)),
    which=st.integers(0, 2),
    place=st.integers(0, 400),
    new=st.characters(min_codepoint=32, max_codepoint=255),
)
def test_no_changed_header_verifies(name: str, which: int, place: int, new: str) -> None:
    headers = signed(name)
    key = sorted(headers)[which % len(headers)]
    old = headers[key][0]
    at = place % len(old)
    changed = old[:at] + new + old[at + 1 :]
    hexadecimal = "hub" in key or "stripe" in key  # where case means nothing
    same = (
        changed.lower() == old.lower() if hexadecimal or key == "authorization" else changed == old
    )
    if same:
        return
    assert not verifies(SCHEMES[name], {**headers, key: [changed]}, BODY)


@given(
    name=st.sampled_from(sorted(SCHEMES)),
    values=st.lists(st.text(max_size=80), min_size=3, max_size=3),
    body=st.binary(max_size=32),
)
def test_whatever_the_headers_are_the_answer_is_no(
    name: str, values: list[str], body: bytes
) -> None:
    headers = {key: [value] for key, value in zip(signed(name), values, strict=False)}
    assert not verifies(SCHEMES[name], headers, body)


@pytest.mark.parametrize("name", ["standard", "sanity"])
def test_a_signature_is_written_in_one_way_only(name: str) -> None:
    """The last character of 32 bytes in Base64 has two bits that stand for nothing."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    alphabet += "+/" if name == "standard" else "-_"
    headers = signed(name)
    key = next(key for key in headers if key.endswith("signature"))
    text = headers[key][0].rstrip("=")
    other = text[:-1] + alphabet[alphabet.index(text[-1]) + 1]
    rest = headers[key][0][len(text) :]
    assert not verifies(SCHEMES[name], {**headers, key: [other + rest]}, BODY)
    assert verifies(SCHEMES[name], {**headers, key: [text + rest]}, BODY)


def test_a_signature_has_one_time() -> None:
    headers = signed("stripe")
    first, signature = headers["stripe-signature"][0].split(",")
    for times in (f"{first},t=1", f"t=1,{first}", f"{first},{first}", ""):
        wrong = {"stripe-signature": [f"{times},{signature}"]}
        assert not verifies(SCHEMES["stripe"], wrong, BODY)


@pytest.mark.parametrize("name", ["standard", "svix"])
def test_an_id_that_is_no_text_is_refused_like_any_other(name: str) -> None:
    """HTTP headers may hold any byte; what is not UTF-8 comes as surrogates."""
    headers = signed(name)
    (key,) = (key for key in headers if key.endswith("-id"))
    assert not verifies(SCHEMES[name], {**headers, key: ["a\udcff"]}, BODY)


@pytest.mark.parametrize("secret", ["whsec_==", "whsec_", "", "whsec_" + "QUFB" * 5])
def test_a_secret_that_could_be_guessed_is_none(secret: str) -> None:
    with pytest.raises(ValueError, match="fewer than 16 bytes"):
        standard_secret(secret)


# --- before the body -----------------------------------------------------------------------------


def passes(scheme: Verification, headers: Headers, *, now: float = NOW) -> bool:
    try:
        scheme.check_headers(headers, now=now)
    except SignatureError:
        return False
    return True


@pytest.mark.parametrize("name", SCHEMES)
def test_the_headers_alone_tell_what_can_be_told_without_the_body(name: str) -> None:
    scheme, whole = SCHEMES[name], signed(name)
    assert passes(scheme, whole)
    for missing in whole:
        assert not passes(scheme, {**whole, missing: []})
        assert not passes(scheme, {**whole, missing: whole[missing] * 2})
    assert scheme.signs_body == (name in SIGNS_BODY)
    # Of another body: only the body tells. A password is of none.
    assert passes(scheme, signed(name, b"another"))
    key = next(key for key in whole if "sign" in key or key == "authorization")
    for unreadable in ("", "x", "v9,AAAA", whole[key][0][:-4], "t=1750000000,v0=00", "Basic eA=="):
        assert not passes(scheme, {**whole, key: [unreadable]})


@pytest.mark.parametrize("name", SIGNS_TIME)
def test_an_old_signature_is_refused_by_its_headers(name: str) -> None:
    assert passes(SCHEMES[name], signed(name), now=NOW + 299)
    assert not passes(SCHEMES[name], signed(name), now=NOW + 301)


@pytest.mark.parametrize("name", SCHEMES)
def test_what_is_signed_beside_the_body_never_fails(name: str) -> None:
    beside = SCHEMES[name].signed_beside_body
    assert beside(signed(name)) == beside(signed(name, b"another"))
    assert beside({}) == beside({key: [] for key in signed(name)}) == ()
