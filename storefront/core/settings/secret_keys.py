"""Secrets of the server: the key that signs tokens, and the keys that encrypt stored secrets."""

import secrets

from pydantic import Field, SecretStr, field_validator

from storefront.core.encryption import Vault, generate_key
from storefront.core.settings.database import DatabaseSettings
from storefront.core.settings.parsing import load_or_create, split_list


class SecretSettings(DatabaseSettings):
    """Signing secret and encryption keys. Where they are unset, they are generated and stored in the data folder."""

    secret: SecretStr | None = Field(
        None,
        min_length=32,
        description="Signs tokens (HS256), 32 characters or more. Unset: generated once and stored in the data folder.",
    )
    encryption_keys: SecretStr | None = Field(
        None,
        description="Encrypt stored secrets: Fernet keys, comma-separated, newest first. "
        "Unset: one is generated and stored in the data folder.",
    )

    def load_signing_secret(self) -> str:
        """The key that signs tokens. Unless it is set, 32 random bytes are generated and stored for the next start."""
        if self.secret is not None:
            return self.secret.get_secret_value()
        return load_or_create(self.data_dir / "secret", lambda: secrets.token_urlsafe(32))

    def load_vault(self) -> Vault:
        """Encryption of stored secrets. Unless keys are set, one is generated and stored for the next start."""
        return Vault(split_list(self.encryption_keys) or [load_or_create(self.data_dir / "encryption-key", generate_key)])

    @field_validator("encryption_keys")
    @classmethod
    def _check_encryption_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if split_list(value):
            Vault(split_list(value))
        return value
