# Every AWS Lambda function of the project; the function's command says which handler it runs:
# webhook.lambda_entry.{handler,intake}, workers.lambda_entry.{create,update,delete,sweep,scrub}.
# Built from the repository's root; README.md beside this file tells how, and why it is so.

# With its digest where it matters: --build-arg BASE_IMAGE=python:3.12-slim-bookworm@sha256:…
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_COMPILE=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv --without-pip /opt/bloomweaver && python3 -m venv --without-pip /opt/tools
COPY docker/requirements-build.txt docker/requirements-functions.txt docker/
RUN --mount=type=cache,id=pip,target=/root/.cache/pip \
    --mount=type=secret,id=pip-conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca-bundle,target=/run/secrets/ca-bundle.pem \
    python3 -m pip --python /opt/tools/bin/python install --quiet \
      --no-deps --require-hashes -r docker/requirements-build.txt \
 && python3 -m pip --python /opt/bloomweaver/bin/python install --quiet \
      --no-deps --require-hashes -r docker/requirements-functions.txt
COPY LICENSE README.md pyproject.toml ./
COPY common/ common/
COPY webhook/ webhook/
COPY workers/ workers/
COPY docker/bake_model.py docker/
RUN /opt/tools/bin/python -c "from setuptools.build_meta import build_wheel; build_wheel('dist')" \
      > /dev/null \
 && python3 -m pip --python /opt/bloomweaver/bin/python install --quiet --no-deps --no-index dist/*.whl
# The packaged model, put together: a function that searches has nothing to write at its start.
# Bytecode is not compared with its source at run time: neither changes in an image.
RUN BLOOMWEAVER_FUSE_GRAPH=false BLOOMWEAVER_MODEL_CACHE_DIR=/opt/bloomweaver/models \
    PYTHONDONTWRITEBYTECODE=1 /opt/bloomweaver/bin/python docker/bake_model.py all-MiniLM-L6-v2-int8 \
 && chmod -R a+rX /opt/bloomweaver \
 && /opt/bloomweaver/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
      /opt/bloomweaver/lib

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="BloomWeaver functions" \
      org.opencontainers.image.description="Webhook, consumers, intake, sweeper and scrub as AWS Lambda functions" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/bloomweaver /opt/bloomweaver
ENV PATH=/opt/bloomweaver/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    BLOOMWEAVER_MODEL_CACHE_DIR=/opt/bloomweaver/models
WORKDIR /
USER 10001:10001
# Nothing listens here: the runtime asks Lambda for events.
HEALTHCHECK NONE
ENTRYPOINT ["/opt/bloomweaver/bin/python", "-m", "awslambdaric"]
CMD ["webhook.lambda_entry.handler"]
