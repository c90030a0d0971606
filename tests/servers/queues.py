"""The queues of one test on an SQS server, under names that no other test has."""

from __future__ import annotations

import json
import secrets
from functools import cache
from typing import TYPE_CHECKING, Any

from botocore.session import get_session

from tests.servers.aws import REGION

if TYPE_CHECKING:
    from types_aiobotocore_sqs.type_defs import MessageTypeDef

_ROLES = ("change", "create", "update", "delete")


class TestQueues:
    """Five queues, and calls that look past the adapter. It blocks: servers answer in no time."""

    __test__ = False

    def __init__(
        self, endpoint_url: str, *, max_receives: int = 3, visibility_seconds: int = 60
    ) -> None:
        self._client = _client(endpoint_url)
        self._suffix = secrets.token_hex(4)
        self.dead_letters = self._create("DeadLetterQueue", {})
        redrive = json.dumps(
            {"deadLetterTargetArn": self.arn_of(self.dead_letters), "maxReceiveCount": max_receives}
        )
        attributes = {"VisibilityTimeout": str(visibility_seconds), "RedrivePolicy": redrive}
        self.names = {
            role: self._create(f"{role.capitalize()}Queue", attributes) for role in _ROLES
        }

    @property
    def settings(self) -> dict[str, str]:
        """Fields of Settings that name them."""
        named = {f"{role}_queue_name": name for role, name in self.names.items()}
        return {"queue_url": "sqs:", "dead_letter_queue_name": self.dead_letters, **named}

    def url_of(self, name: str) -> str:
        return str(self._client.get_queue_url(QueueName=name)["QueueUrl"])

    def arn_of(self, name: str) -> str:
        return self.attributes(name)["QueueArn"]

    def attributes(self, name: str) -> dict[str, str]:
        url = self.url_of(name)
        answer = self._client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        return dict(answer["Attributes"])

    def create(self, name: str, **attributes: str) -> str:
        """Another one; its full name."""
        return self._create(name, attributes)

    def send(self, name: str, body: str) -> None:
        """As somebody else would, without our attributes."""
        self._client.send_message(QueueUrl=self.url_of(name), MessageBody=body)

    def receive(self, name: str, *, visibility_seconds: int = 30) -> list[MessageTypeDef]:
        answer = self._client.receive_message(
            QueueUrl=self.url_of(name),
            MaxNumberOfMessages=10,
            VisibilityTimeout=visibility_seconds,
            MessageAttributeNames=["All"],
            AttributeNames=["All"],
        )
        return list(answer.get("Messages", []))

    def _create(self, name: str, attributes: dict[str, str]) -> str:
        full = f"{name}-{self._suffix}"
        kept = {"MessageRetentionPeriod": str(14 * 86400)}
        self._client.create_queue(QueueName=full, Attributes=kept | attributes)
        return full


@cache
def _client(endpoint_url: str) -> Any:
    return get_session().create_client(
        "sqs",
        endpoint_url=endpoint_url,
        region_name=REGION,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
