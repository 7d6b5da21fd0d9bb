"""Encryption at rest: the newest key encrypts, older keys decrypt, other keys fail."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from storefront.core.encryption import DecryptionError, Vault, generate_key
from storefront.core.settings import Settings

OLD, NEW = generate_key(), generate_key()
TEXT = "shpat_0123 ключ 🔑"


def test_encryption_round_trips_and_is_randomized() -> None:
    vault = Vault([NEW])
    first, second = vault.encrypt(TEXT), vault.encrypt(TEXT)
    assert first != second
    assert "shpat" not in first
    assert vault.decrypt(first) == vault.decrypt(second) == TEXT


def test_older_keys_still_decrypt() -> None:
    token = Vault([OLD]).encrypt(TEXT)
    vault = Vault([NEW, OLD])
    assert vault.decrypt(token) == TEXT
    assert not vault.is_current(token)
    rotated = vault.rotate(token)
    assert vault.is_current(rotated)
    assert Vault([NEW]).decrypt(rotated) == TEXT


@pytest.mark.parametrize(
    "token", ["", "plain text", "é", "gAAAAA==", Vault([OLD]).encrypt(TEXT), Vault([NEW]).encrypt(TEXT)[:-3] + "AA="]
)
def test_undecryptable_token_raises_without_quoting_it(token: str) -> None:
    vault = Vault([NEW])
    for read in (vault.decrypt, vault.rotate):
        with pytest.raises(DecryptionError) as caught:
            read(token)
        assert "STOREFRONT_ENCRYPTION_KEYS" in str(caught.value)
        assert not token or token not in str(caught.value)
    assert not vault.is_current(token)


@pytest.mark.parametrize("bad", ["short", "x" * 44, NEW[:-2], "ключ"], ids=["short", "letters", "cut", "cyrillic"])
def test_malformed_key_is_named_by_number(bad: str) -> None:
    with pytest.raises(ValueError, match="key 2 is not a Fernet key") as caught:
        Vault([NEW, bad])
    assert bad not in str(caught.value)
    with pytest.raises(ValidationError, match="key 2 is not a Fernet key") as validation_error:
        Settings(encryption_keys=SecretStr(f"{NEW},{bad}"))
    assert bad not in str(validation_error.value)
    assert NEW not in str(validation_error.value)


def test_vault_requires_a_key() -> None:
    with pytest.raises(ValueError, match="at least one key"):
        Vault([])


def test_settings_order_keys_newest_first() -> None:
    vault = Settings(encryption_keys=SecretStr(f"{NEW}, {OLD}")).load_vault()
    assert vault.is_current(Vault([NEW]).encrypt(TEXT))
    assert vault.decrypt(Vault([OLD]).encrypt(TEXT)) == TEXT


def test_missing_key_is_generated_with_private_mode(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    token = Settings(data_dir=folder).load_vault().encrypt(TEXT)
    assert Settings(data_dir=folder).load_vault().decrypt(token) == TEXT
    assert (folder / "encryption-key").stat().st_mode & 0o777 == 0o600


def test_empty_key_file_raises(tmp_path: Path) -> None:
    (tmp_path / "encryption-key").touch()
    with pytest.raises(RuntimeError, match="is empty"):
        Settings(data_dir=tmp_path).load_vault()
