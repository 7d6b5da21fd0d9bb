"""Creates the object storage that the settings configure."""

from storefront.core.settings import Settings
from storefront.core.storage.base import ObjectStorage
from storefront.core.storage.disk import DiskStorage


def create_object_storage(options: Settings) -> ObjectStorage:
    """The bucket of the settings, else a folder in the data folder. Raises RuntimeError where the extra `s3` is not installed."""
    if options.s3_bucket is None:
        return DiskStorage(options.data_dir / "objects", options.base_url(), options.load_signing_secret())
    try:
        # Imported here: botocore is an optional dependency.
        from storefront.core.storage.s3 import Bucket, S3Storage  # noqa: PLC0415
    except ImportError:
        raise RuntimeError("STOREFRONT_S3_BUCKET needs the extra s3. Run: pip install 'storefront[s3]'") from None
    secret_key = options.s3_secret_access_key
    return S3Storage(
        Bucket(
            endpoint=options.s3_endpoint or f"https://s3.{options.s3_region}.amazonaws.com",
            name=options.s3_bucket,
            region=options.s3_region,
            access_key_id=options.s3_access_key_id or "",
            secret_access_key=secret_key.get_secret_value() if secret_key else "",
            # AWS requires virtual-hosted addressing; the endpoint of another service may be an IP address, without subdomains.
            addressing=options.s3_addressing or ("path" if options.s3_endpoint else "virtual"),
            public_url=options.s3_public_url,
        )
    )
