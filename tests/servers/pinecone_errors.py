"""How the Pinecone test server refuses."""

from __future__ import annotations


class RefusedError(Exception):
    """Becomes an answer of this status with the message in Pinecone's form."""

    def __init__(self, status: int, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
