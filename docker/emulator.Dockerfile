# An emulator of AWS (ministack, MIT) for compose.yaml's profile `aws`; never part of what is deployed.
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ONLY_BINARY=:all: PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv --without-pip /opt/emulator
COPY docker/requirements-emulator.txt docker/
RUN --mount=type=cache,id=pip,target=/root/.cache/pip \
    --mount=type=secret,id=pip-conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca-bundle,target=/run/secrets/ca-bundle.pem \
    python3 -m pip --python /opt/emulator/bin/python install --quiet \
      --no-deps --require-hashes -r docker/requirements-emulator.txt

FROM ${BASE_IMAGE}
COPY --from=build /opt/emulator /opt/emulator
# In a container of its own it has to listen on more than loopback; compose publishes no port of it.
ENV PATH=/opt/emulator/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    GATEWAY_PORT=4566 BIND_HOST=0.0.0.0
WORKDIR /tmp
USER 10001:10001
EXPOSE 4566
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=10 \
    CMD ["/opt/emulator/bin/python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:4566/_ministack/health', timeout=4)"]
ENTRYPOINT ["/opt/emulator/bin/ministack"]
