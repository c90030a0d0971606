"""An embedding profile without its model: for processes that accept changes and never embed.

`profile:` is followed by the profile as JSON; `bloomweaver profile` prints the URL of a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from common.model import EmbeddingProfile, Vector
from common.ports.embedder import ModelUnavailableError, NoModelError, Passage, Tokenizer
from common.settings import Settings
from common.wire import DamagedDataError, profile_from_json, profile_to_json

SCHEME = "profile:"


class ProfileOnly:
    """Implements Embedder for those who only need to know which vectors a namespace holds."""

    def __init__(self, profile: EmbeddingProfile) -> None:
        self._profile = profile

    @property
    def profile(self) -> EmbeddingProfile:
        return self._profile

    async def load(self) -> None:
        self._refuse()

    async def tokenizer(self) -> Tokenizer:
        self._refuse()

    async def embed_documents(self, passages: Sequence[Passage]) -> list[Vector[float]]:
        self._refuse()

    async def embed_query(self, text: str) -> Vector[float]:
        self._refuse()

    async def close(self) -> None:
        """Nothing is open."""

    def _refuse(self) -> NoReturn:
        raise NoModelError(
            f"this process knows only the profile of {self._profile.model}, not the model: to "
            "embed, set BLOOMWEAVER_EMBEDDER_URL to the model itself (fastembed:…)"
        )


def url_of(profile: EmbeddingProfile) -> str:
    return SCHEME + profile_to_json(profile)


def connect(url: str, settings: Settings, receiver: str) -> ProfileOnly:
    """Raises ModelUnavailableError when what follows the scheme is no profile."""
    try:
        return ProfileOnly(profile_from_json(url.removeprefix(SCHEME)))
    except DamagedDataError as error:
        raise ModelUnavailableError(
            f"BLOOMWEAVER_EMBEDDER_URL={url!r} is {error}; `bloomweaver profile` prints it"
        ) from error
