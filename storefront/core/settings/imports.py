"""Settings of imports and exports: the job queue, the limits of files, and Shopify's Admin API."""

from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings

from storefront.core.net.shopify_client import API_VERSION
from storefront.core.settings.parsing import LOCAL_HOSTS


class ImportSettings(BaseSettings):
    """Import and export jobs."""

    job_workers: int = Field(
        2,
        ge=0,
        le=16,
        description="Maximum concurrent imports and exports of a process, and of imports that fetch images; 0: it runs none.",
    )
    jobs_per_owner: int = Field(
        1,
        ge=1,
        le=100,
        description="Maximum concurrent imports and exports of one owner, and of imports that fetch images, over all processes.",
    )
    job_retention_days: int = Field(
        7, ge=1, le=365, description="Days for which finished imports and exports and their files are retained."
    )
    max_import: int = Field(1_000_000_000, ge=1_000, le=2_000_000_000, description="Maximum bytes of an imported file.")
    max_import_rows: int = Field(
        2_000_000,
        ge=1,
        le=20_000_000,
        description="Maximum rows of an imported file; of a Shopify shop its products and variants.",
    )
    shopify_api_version: str = Field(
        API_VERSION, pattern=r"^20[0-9]{2}-(01|04|07|10)$", description="Version of Shopify's Admin API."
    )
    shopify_url: str | None = Field(
        None,
        description="Base URL of Shopify's Admin API in place of each shop's own host, for a proxy or a test: it receives the "
        "access tokens. Unset: https://{shop}.myshopify.com.",
    )

    @field_validator("shopify_url")
    @classmethod
    def _check_shopify_url(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "https://unset")
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL_HOSTS):
            raise ValueError("must be an https:// URL (http:// only on this machine): access tokens are sent there")
        return value
