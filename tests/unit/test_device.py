"""Which device a model runs on, and what is said where it cannot."""

from __future__ import annotations

import pytest

from common.adapters.embedder.device import CUDA_PROVIDER, check_session, choose_device
from common.ports.embedder import ModelUnavailableError

CPU_ONLY = ["CPUExecutionProvider"]
BOTH = [CUDA_PROVIDER, "CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("wanted", "providers", "device"),
    [
        ("cpu", CPU_ONLY, "cpu"),
        ("cpu", BOTH, "cpu"),
        ("auto", CPU_ONLY, "cpu"),
        ("auto", BOTH, "cuda"),
        ("cuda", BOTH, "cuda"),
    ],
)
def test_the_device(wanted: str, providers: list[str], device: str) -> None:
    assert choose_device(wanted, providers) == device


def test_a_gpu_that_cannot_be_had_is_told_with_its_mend() -> None:
    with pytest.raises(ModelUnavailableError, match=r"bloomweaver\[gpu\].*fastembed-gpu"):
        choose_device("cuda", CPU_ONLY)


def test_a_session_that_fell_back_to_the_cpu_is_refused() -> None:
    check_session(BOTH)
    with pytest.raises(ModelUnavailableError, match="NVIDIA driver"):
        check_session(CPU_ONLY)
