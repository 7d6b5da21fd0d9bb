"""Which store the settings name."""

from storefront.core.settings import Settings
from storefront.core.storage.base import ObjectStorage
from storefront.core.storage.disk import DiskStorage


def create_object_storage(options: Settings) -> ObjectStorage:
    """The bucket of the settings, else the data folder. Raises RuntimeError where the extra is not installed."""
    if options.s3_bucket is None:
        return DiskStorage(options.data_dir / "objects", options.base_url(), options.load_signing_secret())
    try:
        # Imported here because the signer is an extra.
        from storefront.core.storage.s3 import Bucket, S3Storage  # noqa: PLC0415
    except ImportError:
        raise RuntimeError("STOREFRONT_S3_BUCKET needs a signer. Run: pip install 'storefront[s3]'") from None
    secret_key = options.s3_secret_access_key
    return S3Storage(
        Bucket(
            endpoint=options.s3_endpoint or f"https://s3.{options.s3_region}.amazonaws.com",
            name=options.s3_bucket,
            region=options.s3_region,
            access_key_id=options.s3_access_key_id or "",
            secret_access_key=secret_key.get_secret_value() if secret_key else "",
            # AWS itself wants the bucket in the host; the address of another service may have no name to put it before.
            addressing=options.s3_addressing or ("path" if options.s3_endpoint else "virtual"),
            public_url=options.s3_public_url,
        )
    )
