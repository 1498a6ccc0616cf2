FROM python:3.13-slim AS build
WORKDIR /src
RUN python -m venv /opt/lakehouse
COPY pyproject.toml README.md LICENSE ./
COPY clients/python clients/python
COPY lakehouse lakehouse
COPY flight_server flight_server
RUN /opt/lakehouse/bin/python -m pip install --no-cache-dir ./clients/python '.[samples,sql,postgres,ingest,local-ai]'

FROM python:3.13-slim
LABEL org.opencontainers.image.title="lakehouse" \
      org.opencontainers.image.description="An Arrow Flight SQL data server over an Apache Iceberg lakehouse" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 lakehouse \
 && useradd --system --uid 10001 --gid lakehouse --home-dir /var/lib/lakehouse --shell /usr/sbin/nologin lakehouse \
 && install --directory --owner=lakehouse --group=lakehouse --mode=0700 /var/lib/lakehouse
COPY --from=build /opt/lakehouse /opt/lakehouse
COPY deploy/container.toml /etc/lakehouse/lakehouse.toml
ENV PATH=/opt/lakehouse/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LAKEHOUSE__OPS__HTTP_PORT=9464
USER 10001:10001
WORKDIR /var/lib/lakehouse
VOLUME ["/etc/lakehouse", "/var/lib/lakehouse"]
EXPOSE 31337
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9464/readyz', timeout=4)"]
ENTRYPOINT ["lakehouse"]
CMD ["serve", "--config", "/etc/lakehouse/lakehouse.toml"]
