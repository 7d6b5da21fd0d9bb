"""Secrets at rest: texts that must be read again, encrypted with keys that may be replaced (Fernet)."""

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet


class DecryptionError(Exception):
    """A stored text that none of the keys opens. Never says what it was."""

    def __init__(self) -> None:
        super().__init__("A stored secret opens with none of STOREFRONT_ENCRYPTION_KEYS. Add the key that it was encrypted with.")


class Vault:
    """Encrypts with the newest key, decrypts with any of them."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Keys of Fernet, newest first; raises ValueError where one is malformed, without showing it."""
        fernets = [_load_key(key, number) for number, key in enumerate(keys, 1)]
        if not fernets:
            raise ValueError("there must be one key at least")
        self._newest_key, self._all_keys = fernets[0], MultiFernet(fernets)

    def encrypt(self, text: str) -> str:
        """The text under the newest key. Twice the same text makes two tokens that do not look alike."""
        return self._newest_key.encrypt(text.encode()).decode()

    def decrypt(self, token: str) -> str:
        """The text of a token; raises Undecryptable."""
        try:
            return self._all_keys.decrypt(token.encode()).decode()
        except InvalidToken:
            raise DecryptionError from None

    def rotate(self, token: str) -> str:
        """The same text under the newest key; raises Undecryptable."""
        try:
            return self._all_keys.rotate(token.encode()).decode()
        except InvalidToken:
            raise DecryptionError from None

    def is_current(self, token: str) -> bool:
        """Whether the token is under the newest key already; False for what is no token at all."""
        try:
            self._newest_key.decrypt(token.encode())
        except InvalidToken:
            return False
        return True


def generate_key() -> str:
    """A key at random."""
    return Fernet.generate_key().decode()


def _load_key(key: str, number: int) -> Fernet:
    try:
        return Fernet(key)
    except ValueError:
        raise ValueError(f"key {number} is no Fernet key: it must be 32 bytes as URL-safe base64, 44 characters") from None
