"""Settings of images and of object storage: a bucket (S3), or a folder."""

from typing import Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings


class StorageSettings(BaseSettings):
    """Limits of uploaded images, and the bucket. Without a bucket, objects are stored in the data folder."""

    max_image_bytes: int = Field(20_000_000, ge=10_000, le=500_000_000, description="Maximum bytes of an uploaded image.")
    max_image_pixels: int = Field(
        50_000_000,
        ge=10_000,
        le=500_000_000,
        description="Maximum pixels of an uploaded image. The default takes up to a gigabyte of memory, for one image at a time.",
    )
    s3_bucket: str | None = Field(
        None, description="S3 bucket for images and files (needs the extra `s3`). Unset: they are stored in the data folder."
    )
    s3_endpoint: str | None = Field(
        None, description="Endpoint of an S3-compatible service, such as https://ACCOUNT.r2.cloudflarestorage.com. Unset: AWS."
    )
    s3_region: str = Field("us-east-1", description="The bucket's region; auto for Cloudflare R2.")
    s3_access_key_id: str | None = Field(None, description="Access key that may read, write, delete and list in the bucket.")
    s3_secret_access_key: SecretStr | None = Field(None, validate_default=True, description="Secret of the access key.")
    s3_addressing: Literal["path", "virtual"] | None = Field(
        None, description="Whether the bucket's name is in the path or in the host of URLs. Unset: virtual for AWS, else path."
    )
    s3_public_url: str | None = Field(
        None,
        description="Public URL of the bucket, such as a CDN, for objects under media/. Unset: this server sends images.",
    )

    @field_validator("s3_secret_access_key")
    @classmethod
    def _check_bucket(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if info.data.get("s3_bucket") and not (value and info.data.get("s3_access_key_id")):
            raise ValueError("must be set with STOREFRONT_S3_BUCKET, and STOREFRONT_S3_ACCESS_KEY_ID too")
        return value
