# The embedding worker on an NVIDIA GPU, with its model inside.
# Built from the repository's root; README.md beside this file tells how, and why it is so.

# CUDA and cuDNN come as locked wheels, the driver from the host (nvidia-container-toolkit).
# With its digest where it matters: --build-arg BASE_IMAGE=python:3.12-slim-bookworm@sha256:…
ARG BASE_IMAGE=python:3.12-slim-bookworm

# A folder below the repository's root with model.onnx, tokenizer.json, config.json and
# tokenizer_config.json, and what the model is called; without them it is the packaged model.
ARG MODEL_FOLDER=
ARG MODEL_NAME=all-MiniLM-L6-v2-int8

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv --without-pip /opt/bloomweaver && python3 -m venv --without-pip /opt/tools
COPY docker/requirements-build.txt docker/requirements-worker-gpu.txt docker/
RUN --mount=type=cache,id=pip,target=/root/.cache/pip \
    --mount=type=secret,id=pip-conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca-bundle,target=/run/secrets/ca-bundle.pem \
    python3 -m pip --python /opt/tools/bin/python install --quiet \
      --no-deps --require-hashes -r docker/requirements-build.txt \
 && python3 -m pip --python /opt/bloomweaver/bin/python install --quiet \
      --no-deps --require-hashes -r docker/requirements-worker-gpu.txt
COPY LICENSE README.md pyproject.toml ./
COPY common/ common/
COPY webhook/ webhook/
COPY workers/ workers/
COPY docker/bake_model.py docker/healthcheck.py docker/
RUN /opt/tools/bin/python -c "from setuptools.build_meta import build_wheel; build_wheel('dist')" \
      > /dev/null \
 && python3 -m pip --python /opt/bloomweaver/bin/python install --quiet --no-deps --no-index dist/*.whl \
 && cp docker/healthcheck.py /opt/bloomweaver/
# Its vectors are tried here, without a GPU. Bytecode is not compared with its source at run time:
# neither changes in an image.
ARG MODEL_FOLDER
ARG MODEL_NAME
COPY ${MODEL_FOLDER:-docker/no-model}/ given/
RUN BLOOMWEAVER_MODEL_CACHE_DIR=/opt/bloomweaver/models PYTHONDONTWRITEBYTECODE=1 \
    BLOOMWEAVER_FUSE_GRAPH=false \
    /opt/bloomweaver/bin/python docker/bake_model.py "$MODEL_NAME" ${MODEL_FOLDER:+given} \
 && chmod -R a+rX /opt/bloomweaver \
 && /opt/bloomweaver/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      /opt/bloomweaver/lib

FROM ${BASE_IMAGE}
ARG MODEL_FOLDER
ARG MODEL_NAME
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="BloomWeaver worker (GPU)" \
      org.opencontainers.image.description="Embedding worker with its model, on NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/bloomweaver /opt/bloomweaver
ENV PATH=/opt/bloomweaver/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    BLOOMWEAVER_DATA_DIR=/var/lib/bloomweaver BLOOMWEAVER_LOG_FORMAT=json \
    BLOOMWEAVER_DEVICE=cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    BLOOMWEAVER_MODEL_CACHE_DIR=/opt/bloomweaver/models \
    BLOOMWEAVER_EMBEDDER_URL=fastembed:${MODEL_FOLDER:+/opt/bloomweaver/models/}${MODEL_NAME}
# All that is written, so that the root file system can be read-only.
RUN install -d -o 10001 -g 10001 -m 0750 /var/lib/bloomweaver
VOLUME /var/lib/bloomweaver
WORKDIR /
USER 10001:10001
# worker serve.
EXPOSE 8090
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/opt/bloomweaver/bin/python", "/opt/bloomweaver/healthcheck.py"]
ENTRYPOINT ["/opt/bloomweaver/bin/bloomweaver"]
CMD ["worker", "embed"]
