# The service, without the pipeline that makes its models:
#
#   MODEL=$(foundry model package --resolve)
#   docker build -t diffusion-foundry .
#   docker run -p 127.0.0.1:3000:3000 -e FOUNDRY_API_KEYS=… -v "$MODEL":/model:ro diffusion-foundry
#
# or with the model in it, for a rollout:
#
#   docker build --target packed --build-context model="$MODEL" -t diffusion-foundry:VERSION .
#
# TORCH says which build of torch is wanted: cpu, or for a card the CUDA version of its driver, such as cu130. The
# wheels bring CUDA themselves, so the base image stays the same. Empty: the build that uv's configuration offers.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH=cpu
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.9
WORKDIR /build
COPY pyproject.toml constraints.txt ./
RUN python -m venv --without-pip /opt/venv
RUN uv pip install --no-cache --python /opt/venv/bin/python ${TORCH:+--torch-backend ${TORCH}} \
    -r pyproject.toml --extra serve -c constraints.txt
# Only programs in C++ need torch's headers, only torch.compile imports sympy, and nothing runs torch's own tests: 240 MB.
RUN rm -rf /opt/venv/lib/python*/site-packages/torch/include /opt/venv/lib/python*/site-packages/torch/test \
    /opt/venv/lib/python*/site-packages/torch/bin/test_* /opt/venv/lib/python*/site-packages/torch/bin/protoc*
RUN uv pip uninstall --python /opt/venv/bin/python sympy networkx mpmath

FROM python:${PYTHON}-slim-bookworm AS base
RUN useradd --uid 10001 --create-home foundry
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY service/ service/
COPY pipeline/__init__.py pipeline/__main__.py pipeline/address.py pipeline/cli.py pipeline/cpus.py pipeline/device.py pipeline/environment.py pipeline/errors.py pipeline/
COPY pipeline/artefacts/ pipeline/artefacts/
COPY pipeline/diffusion/ pipeline/diffusion/
ENV PATH=/opt/venv/bin:${PATH}
# Python keeps the bytecode of what the service imports, and of nothing else.
RUN BENTOML_HOME=/tmp/bentoml python -c "import service.serve, service.drain, service.replay, service.app, _bentoml_impl.worker.service" \
    && rm -rf /tmp/bentoml
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BENTOML_DO_NOT_TRACK=True \
    OTEL_SDK_DISABLED=true \
    BENTOML_HOME=/home/foundry/bentoml
USER 10001
EXPOSE 3000
# Loopback is of no use in a container; on any other address the service wants FOUNDRY_API_KEYS.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=4)"]
ENTRYPOINT ["python", "-m", "pipeline", "serve", "--host", "0.0.0.0", "--port", "3000", "--model", "/model"]

FROM base AS packed
COPY --from=model . /model/

FROM base AS service
