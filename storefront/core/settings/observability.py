"""Settings of logs, metrics and traces."""

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings


class ObservabilitySettings(BaseSettings):
    """Logs, Prometheus metrics, OpenTelemetry traces."""

    log_format: Literal["text", "json"] = Field("text", description="Format of log lines, those of uvicorn included.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="Minimum level of log lines; each request logs one line at info."
    )
    slow_operation: float = Field(1.0, gt=0, description="Seconds after which an operation is logged as slow.")
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65_472,
        description="Port of Prometheus metrics at /metrics; each worker takes the next one. Unset: no metrics.",
    )
    metrics_host: str = Field("127.0.0.1", description="Address of the metrics port. It needs no credentials.")
    traces_endpoint: str | None = Field(
        None,
        description="Endpoint of OpenTelemetry traces, OTLP over HTTP: http://collector:4318/v1/traces. Unset: no traces.",
    )
    traces_share: float = Field(
        1.0, ge=0, le=1, description="Sampling ratio of traces, besides requests whose traceparent is sampled."
    )

    @field_validator("metrics_port")
    @classmethod
    def _check_metrics_port(cls, value: int | None, info: ValidationInfo) -> int | None:
        port, workers = info.data.get("port"), info.data.get("workers")
        if value and port and workers and value <= port < value + workers:
            raise ValueError("must not overlap STOREFRONT_PORT: each worker takes a port from this one on")
        return value
