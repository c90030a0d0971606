"""What the HTTP edge and the workers share: model, protocol, ports, adapters, settings."""

import os

# onnxruntime tells Microsoft of its use from version 1.31 on, unless this is set before it is
# imported, which any module from here on may do. Who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
