"""Tokens in the shapes that issuers document, and what they may do under which settings."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.access import SCOPES_OF, Role
from tests.tokens import NOW, claims, issuer
from webhook.oidc_people import NoAccessError, person_of, values_at
from webhook.oidc_tokens import check_claims

TIMES = {"iat": NOW - 10, "exp": NOW + 50}

KEYCLOAK = TIMES | {
    "iss": "https://login.example/realms/acme", "aud": ["bloomweaver", "account"], "typ": "Bearer",
    "azp": "console", "sub": "0b1b3c1e-7c55-4f0e-9d0e-0a6a4f1f2a11", "acr": "1", "sid": "6f1c2d",
    "realm_access": {"roles": ["offline_access", "kb-editors", "default-roles-acme"]},
    "resource_access": {"my.console": {"roles": ["owner"]}, "account": {"roles": ["view-profile"]}},
    "groups": ["/teams/handbook", "/teams/legal"], "scope": "openid email profile",
    "preferred_username": "ada",
}  # fmt: skip
COGNITO_ACCESS = TIMES | {
    "iss": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbCdEfGhI",
    "sub": "d2f5a4c4-70d1-70b2-0f6e-6f5d0f2f1c11", "client_id": "7examplelient3",
    "origin_jti": "aaa", "event_id": "bbb", "token_use": "access", "version": 2, "jti": "ccc",
    "scope": "aws.cognito.signin.user.admin docs/read", "auth_time": NOW - 10, "username": "ada",
    "cognito:groups": ["readers", "editors"],
}  # fmt: skip
COGNITO_ID = TIMES | {
    "iss": "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbCdEfGhI",
    "sub": "d2f5a4c4-70d1-70b2-0f6e-6f5d0f2f1c11", "aud": "7examplelient3", "token_use": "id",
    "cognito:groups": ["editors"], "cognito:username": "ada", "email": "ada@example.org",
    "email_verified": True, "custom:tenant": "acme", "auth_time": NOW - 10,
}  # fmt: skip
CLERK = TIMES | {
    "iss": "https://clerk.docs.example", "sub": "user_2exampleOfAnId", "sid": "sess_2example",
    "azp": "https://docs.example", "v": 2, "fva": [5, -1], "sts": "active",
    "o": {"id": "org_2example", "slg": "acme", "rol": "admin", "per": "read,manage", "fpm": "3"},
}  # fmt: skip
CLERK_FIRST = TIMES | {
    "iss": "https://clerk.docs.example", "sub": "user_2exampleOfAnId", "azp": "https://docs.example",
    "org_id": "org_2example", "org_slug": "acme", "org_role": "org:editor",
    "metadata": {"bloomweaver": "reader"},
}  # fmt: skip
AUTH0 = TIMES | {
    "iss": "https://acme.eu.auth0.com/", "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
    "aud": ["https://docs.example/api", "https://acme.eu.auth0.com/userinfo"], "azp": "spa-client",
    "scope": "openid write:docs", "permissions": ["read:docs"], "org_id": "org_acme",
    "https://docs.example/roles": ["Site Editor"],
}  # fmt: skip

OF_KEYCLOAK = {
    "issuer": KEYCLOAK["iss"], "audience": ["bloomweaver"], "role_claim": "realm_access.roles",
    "roles": {"kb-editors": "editor"}, "namespaces": ["common"], "namespaces_claim": "groups",
    "namespace_map": {"/teams/handbook": ["handbook", "handbook-*"]},
}  # fmt: skip
OF_COGNITO = {
    "issuer": COGNITO_ID["iss"], "audience": ["7examplelient3"], "client_ids": ["7examplelient3"],
    "role_claim": "cognito:groups", "roles": {"readers": "reader", "editors": "editor"},
    "namespaces": ["*"],
}  # fmt: skip
OF_CLERK = {
    "issuer": CLERK["iss"], "audience": [], "authorized_parties": ["https://docs.example"],
    "role_claim": "o.rol", "roles": {"admin": "admin", "member": "reader"}, "namespaces": [],
    "namespaces_claim": "o.slg", "namespace_template": "tenant-{value}",
}  # fmt: skip
OF_CLERK_FIRST = OF_CLERK | {
    "role_claim": "org_role", "roles": {"org:editor": "editor"}, "namespaces_claim": "org_slug",
}  # fmt: skip
OF_AUTH0 = {
    "issuer": AUTH0["iss"], "audience": ["https://docs.example/api"],
    "role_claim": "https://docs.example/roles", "roles": {"Site Editor": "editor"},
    "namespaces": [], "namespaces_claim": "org_id",
}  # fmt: skip


@pytest.mark.parametrize(
    ("token", "settings", "person", "role", "namespaces"),
    [
        (KEYCLOAK, OF_KEYCLOAK, "login.example/realms/acme#0b1b3c1e-7c55-4f0e-9d0e-0a6a4f1f2a11",
         Role.EDITOR, ("common", "handbook", "handbook-*")),
        (KEYCLOAK,
         OF_KEYCLOAK | {"role_claim": ["resource_access", "my.console", "roles"],
                        "roles": {"owner": "admin"}},
         "login.example/realms/acme#0b1b3c1e-7c55-4f0e-9d0e-0a6a4f1f2a11",
         Role.ADMIN, ("common", "handbook", "handbook-*")),
        (COGNITO_ACCESS, OF_COGNITO,
         "cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbCdEfGhI#"
         "d2f5a4c4-70d1-70b2-0f6e-6f5d0f2f1c11", Role.EDITOR, ("*",)),
        (COGNITO_ID, OF_COGNITO | {"namespaces": [], "namespaces_claim": "custom:tenant"},
         "cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbCdEfGhI#"
         "d2f5a4c4-70d1-70b2-0f6e-6f5d0f2f1c11", Role.EDITOR, ("acme",)),
        (CLERK, OF_CLERK, "clerk.docs.example#user_2exampleOfAnId", Role.ADMIN, ("tenant-acme",)),
        (CLERK_FIRST, OF_CLERK_FIRST, "clerk.docs.example#user_2exampleOfAnId",
         Role.EDITOR, ("tenant-acme",)),
        (CLERK_FIRST, OF_CLERK_FIRST | {"role_claim": "metadata.bloomweaver",
                                        "roles": {"reader": "reader"}},
         "clerk.docs.example#user_2exampleOfAnId", Role.READER, ("tenant-acme",)),
        (AUTH0, OF_AUTH0, "acme.eu.auth0.com#auth0|5f7c8ec7c33c6c004bbafe82",
         Role.EDITOR, ("org_acme",)),
        (AUTH0, OF_AUTH0 | {"role_claim": "scope", "roles": {"write:docs": "editor"}},
         "acme.eu.auth0.com#auth0|5f7c8ec7c33c6c004bbafe82", Role.EDITOR, ("org_acme",)),
    ],
)  # fmt: skip
def test_tokens_of_the_field(
    token: dict[str, Any],
    settings: dict[str, Any],
    person: str,
    role: Role,
    namespaces: tuple[str, ...],
) -> None:
    known = issuer(**settings)
    check_claims(token, known, NOW)
    found = person_of(token, known)
    assert found.id == f"user:{person}"
    assert found.scopes == SCOPES_OF[role]
    assert found.namespaces == namespaces


def test_two_tenants_of_one_host_share_nobody() -> None:
    first = issuer(issuer="https://login.example/realms/a")
    second = issuer(issuer="https://login.example/realms/b")
    assert person_of(claims(), first).id != person_of(claims(), second).id


# --- roles ---------------------------------------------------------------------------------------

LADDER = {"roles": {"r": "reader", "e": "editor", "a": "admin"}}


@pytest.mark.parametrize(
    ("named", "role"),
    [
        (["r"], Role.READER), (["r", "e"], Role.EDITOR), (["e", "a", "r"], Role.ADMIN),
        ("a", Role.ADMIN), (["unheard", "r"], Role.READER), ([7, None, ["a"], "r"], Role.READER),
    ],
)  # fmt: skip
def test_the_most_powerful_role_counts(named: object, role: Role) -> None:
    assert person_of(claims(roles=named), issuer(**LADDER)).scopes == SCOPES_OF[role]


@pytest.mark.parametrize(
    "named", [None, [], "", "unheard", ["A"], {"a": 1}, 7, True, "r a", [["a"]]]
)
def test_nobody_gets_in_without_a_role(named: object) -> None:
    with pytest.raises(NoAccessError, match="no role in its claim roles"):
        person_of(claims(roles=named), issuer(**LADDER))


def test_a_default_role_is_for_those_without_another() -> None:
    known = issuer(**LADDER, default_role="reader")
    assert person_of(claims(roles=None), known).scopes == SCOPES_OF[Role.READER]
    assert person_of(claims(roles=["e"]), known).scopes == SCOPES_OF[Role.EDITOR]
    everybody = issuer(role_claim=None, roles={}, default_role="editor")
    assert person_of(claims(roles=["a"]), everybody).scopes == SCOPES_OF[Role.EDITOR]


def test_only_scopes_are_several_in_one_text() -> None:
    """Or whoever is a 'Guest admin' would be an admin."""
    known = issuer(role_claim="title", roles={"admin": "admin"})
    with pytest.raises(NoAccessError):
        person_of(claims(title="Guest admin"), known)


def test_a_claim_with_dots_in_its_name_comes_first() -> None:
    given = {"a.b": "whole", "a": {"b": "within", "c.d": {"e": ["x"]}}}
    assert values_at(given, "a.b") == ["whole"]
    assert values_at(given, ["a", "b"]) == ["within"]
    assert values_at(given, ["a", "c.d", "e"]) == ["x"]
    assert values_at(given, "a.b.c") == []
    assert values_at({"a": ["b"]}, "a.0") == []


# --- namespaces ----------------------------------------------------------------------------------


def reach(value: object, **settings: Any) -> tuple[str, ...]:
    given = {"namespaces": [], "namespaces_claim": "team"} | settings
    return person_of(claims(team=value), issuer(**given)).namespaces


def test_a_value_is_a_name() -> None:
    assert reach("legal") == ("legal",)
    assert reach(["legal", "sales", "legal"]) == ("legal", "sales")
    assert reach("legal", namespaces=["common"]) == ("common", "legal")
    assert reach(None, namespaces=["common"]) == ("common",)


@pytest.mark.parametrize("value", ["*", "leg*", "*legal", "", ["*"], [""], None, 7, {"legal": 1}])
@pytest.mark.parametrize("template", [None, "tenant-{value}", "{value}*", "{value}-*"])
def test_nobody_reaches_others_by_the_name_of_a_group(value: object, template: str | None) -> None:
    with pytest.raises(NoAccessError, match="names no namespace"):
        reach(value, namespace_template=template)


def test_a_map_is_all_there_is_unless_there_is_a_template() -> None:
    given: dict[str, Any] = {"namespace_map": {"legal": ["law", "law-*"], "*": ["*"]}}
    assert reach(["legal", "sales"], **given) == ("law", "law-*")
    assert reach("*", **given) == ("*",), "what the settings say in so many words"
    assert reach(["legal", "sales"], **given, namespace_template="t-{value}") == (
        "law", "law-*", "t-sales",
    )  # fmt: skip
    with pytest.raises(NoAccessError):
        reach("sales", **given)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from("*{}-/"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(ANYTHING, st.just(["r"]) | ANYTHING)
def test_whatever_a_token_says_it_reaches_nothing_beyond(team: object, roles: object) -> None:
    known = issuer(
        roles={"r": "reader"},
        namespaces=[],
        namespaces_claim="team",
        namespace_template="tenant-{value}",
    )
    try:
        found = person_of(claims(team=team, roles=roles), known)
    except NoAccessError:
        return
    assert found.scopes == SCOPES_OF[Role.READER]
    assert found.namespaces
    assert all(name.startswith("tenant-") and "*" not in name for name in found.namespaces)


def test_a_template_is_filled_once() -> None:
    assert reach("{value}", namespace_template="a-{value}-*") == ("a-{value}-*",)
