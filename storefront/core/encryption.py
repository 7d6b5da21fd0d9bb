"""Encryption at rest of secrets that must be readable again: Fernet, with key rotation."""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class DecryptionError(Exception):
    """None of the keys decrypts a stored secret. The message never quotes it."""

    def __init__(self) -> None:
        super().__init__("None of STOREFRONT_ENCRYPTION_KEYS decrypts a stored secret. Add the key that it was encrypted with.")


class Vault:
    """Encrypts with the newest key, decrypts with any of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Fernet keys, newest first. Raises ValueError where one is malformed, without quoting it, or where there is none."""
        fernets = [_load_key(key, number) for number, key in enumerate(keys, 1)]
        if not fernets:
            raise ValueError("at least one key is required")
        self._newest_key, self._all_keys = fernets[0], MultiFernet(fernets)

    def encrypt(self, text: str) -> str:
        """The text encrypted with the newest key. Encryption is randomized: the same text gives another token each time."""
        return self._newest_key.encrypt(text.encode()).decode()

    def decrypt(self, token: str) -> str:
        """The text of a token; raises DecryptionError."""
        try:
            return self._all_keys.decrypt(token.encode()).decode()
        except InvalidToken:
            raise DecryptionError from None

    def rotate(self, token: str) -> str:
        """The same text encrypted with the newest key; raises DecryptionError."""
        try:
            return self._all_keys.rotate(token.encode()).decode()
        except InvalidToken:
            raise DecryptionError from None

    def is_current(self, token: str) -> bool:
        """Whether the token is encrypted with the newest key; False for an invalid token."""
        try:
            self._newest_key.decrypt(token.encode())
        except InvalidToken:
            return False
        return True


def generate_key() -> str:
    """A new random Fernet key."""
    return Fernet.generate_key().decode()


def _load_key(key: str, number: int) -> Fernet:
    try:
        return Fernet(key)
    except ValueError:
        raise ValueError(f"key {number} is not a Fernet key: it must be 32 bytes as URL-safe base64, 44 characters") from None
