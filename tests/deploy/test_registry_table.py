"""The table that Terraform makes is the one that the product defines."""

from __future__ import annotations

from typing import Any

import pytest

from common.adapters.registry.dynamodb_table import definition
from tests.deploy.terraform import workspace

pytestmark = pytest.mark.deploy
NAME = "bloomweaver-test"


def test_the_planned_table_is_the_products() -> None:
    plan = workspace().plan_json("modules/registry", {"name": NAME})
    [planned] = [
        resource["values"]
        for resource in plan["planned_values"]["root_module"]["resources"]
        if resource["type"] == "aws_dynamodb_table"
    ]
    assert _comparable(_as_create_table_takes_it(planned)) == _comparable(
        definition(f"{NAME}-registry")
    )
    assert planned["ttl"] == [{"attribute_name": "ttl", "enabled": True}]
    assert not planned["local_secondary_index"], "the definition knows of none"


def _as_create_table_takes_it(planned: dict[str, Any]) -> dict[str, Any]:
    return {
        "TableName": planned["name"],
        "BillingMode": planned["billing_mode"],
        "AttributeDefinitions": [
            {"AttributeName": one["name"], "AttributeType": one["type"]}
            for one in planned["attribute"]
        ],
        "KeySchema": _key_schema(planned),
        "GlobalSecondaryIndexes": [
            {
                "IndexName": index["name"],
                "KeySchema": _key_schema(index),
                "Projection": _projection(index),
            }
            for index in planned["global_secondary_index"]
        ],
    }


def _key_schema(keyed: dict[str, Any]) -> list[dict[str, str]]:
    return [
        {"AttributeName": keyed["hash_key"], "KeyType": "HASH"},
        {"AttributeName": keyed["range_key"], "KeyType": "RANGE"},
    ]


def _projection(index: dict[str, Any]) -> dict[str, Any]:
    named = index["non_key_attributes"]
    return {
        "ProjectionType": index["projection_type"],
        **({"NonKeyAttributes": sorted(named)} if named else {}),
    }


def _comparable(table: dict[str, Any]) -> dict[str, Any]:
    """Attributes and indexes are sets: their order says nothing."""
    return {
        **table,
        "AttributeDefinitions": sorted(
            table["AttributeDefinitions"], key=lambda one: str(one["AttributeName"])
        ),
        "GlobalSecondaryIndexes": sorted(
            table["GlobalSecondaryIndexes"], key=lambda one: str(one["IndexName"])
        ),
    }
