"""`bloomweaver profile`: what a process that never embeds has to know of the model."""

from __future__ import annotations

import sys
from dataclasses import asdict

from common.adapters.embedder.profile import url_of
from common.cli.configuration import load_settings
from common.cli.output import Output
from common.cli.problems import ExitCode, WrongUsageError
from common.composition import connect
from common.model import EmbeddingProfile
from common.ports.errors import PermanentError, TransientError
from common.settings import Settings
from common.variants import check_variants, own_variant


def profile_command(variant: str | None, out: Output) -> int:
    """Print the `profile:` URL of the configured model, and nothing else."""
    settings = load_settings({"embedding_variant": variant})
    profile = profile_of(settings)
    url = url_of(profile)
    out.json({"url": url, "id": profile.id, "profile": asdict(profile)})
    if not out.as_json:
        # Not through the console, which would wrap it: it is to be copied, or put into a variable.
        sys.stdout.write(url + "\n")
    return ExitCode.DONE


def profile_of(settings: Settings) -> EmbeddingProfile:
    """Raises WrongUsageError with what the embedder says is missing."""
    try:
        check_variants(settings)
        url = own_variant(settings).embedder_url
        embedder = connect("embedder", url, settings, "profile")
        profile: EmbeddingProfile = embedder.profile
    except (PermanentError, TransientError) as error:
        raise WrongUsageError(str(error)) from error
    return profile
