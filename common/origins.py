"""Origins of web pages, as settings name them: `https://app.example`, or `*` for all."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def _origin(value: str) -> str:
    """As browsers write it. Raises ValueError."""
    text = value.strip().lower()
    if text == "*":
        return text
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or text != f"{parts.scheme}://{parts.netloc}":
        raise ValueError("must be * or an origin, as https://app.example or http://localhost:3000")
    if not parts.hostname or "@" in parts.netloc or "*" in parts.netloc:
        raise ValueError("must name one host; * alone stands for all origins")
    default = {"http": 80, "https": 443}[parts.scheme]
    return text.removesuffix(f":{default}") if parts.port == default else text


Origin = Annotated[str, AfterValidator(_origin)]
