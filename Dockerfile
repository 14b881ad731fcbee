# Two images, `cpu` and `cuda`, which contain only what the service needs. See docs/container.md.
ARG BASE_NAME=docker.io/library/python:3.11.16-slim-bookworm
ARG BASE_DIGEST=sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
ARG BASE=${BASE_NAME}@${BASE_DIGEST}


FROM ${BASE} AS installer
# The secret `ca` replaces the system's certificates behind a proxy with a certificate of its own.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    UV_LINK_MODE=copy
WORKDIR /build
COPY requirements/bootstrap.txt requirements/
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    python3 -m venv /uv \
    && /uv/bin/pip install --no-cache-dir --quiet --require-hashes -r requirements/bootstrap.txt \
    && python3 -m venv --without-pip /opt/eyestate


FROM installer AS installed-cpu
COPY requirements/serve.txt tools/container/slim.py ./
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=cache,target=/root/.cache/uv \
    /uv/bin/uv pip install --quiet --python /opt/eyestate --no-deps --require-hashes -r serve.txt \
    && python3 slim.py /opt/eyestate


FROM installer AS installed-cuda
COPY requirements/serve-gpu.txt tools/container/slim.py ./
RUN --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    --mount=type=cache,target=/root/.cache/uv \
    /uv/bin/uv pip install --quiet --python /opt/eyestate --no-deps --require-hashes -r serve-gpu.txt \
    && python3 slim.py /opt/eyestate


FROM installer AS application
COPY pyproject.toml README.md LICENSE ./
COPY eyestate eyestate
COPY service.py /app/
RUN /uv/bin/pip wheel --quiet --no-cache-dir --no-deps --no-build-isolation --wheel-dir wheels . \
    && /uv/bin/uv pip install --quiet --offline --python /opt/eyestate --no-deps --target /app wheels/*.whl \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /app


FROM ${BASE} AS runtime
ARG BASE_NAME
ARG BASE_DIGEST
LABEL org.opencontainers.image.title="eyestate" \
      org.opencontainers.image.description="Open/closed-eye scoring over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="${BASE_NAME}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}"
# Only /tmp is written to. A folder mounted at /models replaces the models in the image.
ENV PATH=/app/bin:/opt/eyestate/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TMPDIR=/tmp \
    HOME=/tmp \
    BENTOML_HOST=0.0.0.0 \
    BENTOML_PORT=3000 \
    EYESTATE_MODELS=/models
WORKDIR /app
COPY models /models
COPY --from=application /app /app
USER 65532:65532
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as http; http.urlopen(f'http://127.0.0.1:{os.environ[\"BENTOML_PORT\"]}/readyz', timeout=4)"]
ENTRYPOINT ["eyestate", "serve"]


FROM runtime AS cuda
# The cascade was only measured on CPU.
ENV EYESTATE_DEVICE=cuda \
    EYESTATE_MODEL=final_best \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=installed-cuda /opt/eyestate /opt/eyestate


FROM runtime AS cpu
COPY --from=installed-cpu /opt/eyestate /opt/eyestate
