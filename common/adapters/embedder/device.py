"""Where a model runs: the processor or a CUDA GPU."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal

from common.ports.embedder import ModelUnavailableError

Device = Literal["cpu", "cuda"]
CUDA_PROVIDER: Final = "CUDAExecutionProvider"

MEND: Final = (
    "pip install 'bloomweaver[gpu]' brings onnxruntime-gpu and fastembed-gpu; they share their "
    "files with onnxruntime and fastembed, so then run: pip uninstall -y fastembed onnxruntime "
    "&& pip install --force-reinstall --no-deps fastembed-gpu onnxruntime-gpu. "
    "Or set BLOOMWEAVER_DEVICE=cpu"
)


def choose_device(wanted: str, providers: Collection[str]) -> Device:
    """`wanted` is cpu, cuda or auto; `providers` are those of the installed onnxruntime.

    Raises ModelUnavailableError where a GPU is asked for and onnxruntime is built without it.
    """
    if wanted == "cpu" or (wanted == "auto" and CUDA_PROVIDER not in providers):
        return "cpu"
    if CUDA_PROVIDER not in providers:
        raise ModelUnavailableError(
            f"device cuda needs onnxruntime's {CUDA_PROVIDER}; the one installed has only "
            f"{', '.join(sorted(providers))}. {MEND}"
        )
    return "cuda"


def check_session(providers: Collection[str]) -> None:
    """`providers` are those a session got: without a driver it falls back to the CPU silently.

    Raises ModelUnavailableError.
    """
    if CUDA_PROVIDER not in providers:
        raise ModelUnavailableError(
            "onnxruntime could not start CUDA: this machine needs an NVIDIA driver, CUDA and "
            f"cuDNN (nvidia-smi tells of the driver). {MEND}"
        )
