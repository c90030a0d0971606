"""Variables of installations that have all that one can have."""

from __future__ import annotations

from typing import Any

DIGEST = "sha256:" + 64 * "0"
REGISTRY = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
PROFILE = 'profile:{"model":"m","fingerprint":"f","dimension":1024,"max_tokens":512}'


def everything(name: str) -> dict[str, Any]:
    """Variables with which an installation has all that it can have."""
    variant = {"embedder_url": "fastembed:/models/m", "profile": PROFILE, "max_size": 3}
    return {
        "region": "eu-central-1",
        "bucket_suffix": "tests",
        "index_url": "pinecone:documents",
        "alarm_emails": ["ops@example.com"],
        "images": {
            repository: f"{REGISTRY}/{name}/{repository}@{DIGEST}"
            for repository in ("functions", "worker-cpu", "worker-gpu")
        },
        "variants": {
            "default": {**variant, "instance_types": ["c7i.large"]},
            "large": {**variant, "namespaces": ["kb-*"], "instance_types": ["c7i.4xlarge"]},
            "gpu": {
                **variant,
                "namespaces": ["papers"],
                "instance_types": ["g6.xlarge"],
                "gpu": True,
                "repository": "worker-gpu",
            },
        },
        "kms_key_arn": "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-5555",
        "domain": {"name": "mocked.example.com", "zone_id": "Z1"},
        "frontend": {"domain": "mocked.example.com", "zone_id": "Z1"},
        "database": {},
        "network": {"zones": ["a", "b"], "nat": True},
    }
