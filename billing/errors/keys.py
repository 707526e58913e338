"""What is wrong with a file that holds a key, or a password."""

from __future__ import annotations

from billing.errors.root import BillingError


class KeyFileError(BillingError):
    """A key cannot be had from its file."""


class MalformedKeyFileError(KeyFileError):
    """The file is not of the format; the text never shows what it holds."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why

    def __str__(self) -> str:
        return f"not a key file of docs/KEYS.md: {self.why}"


class ExposedKeyFileError(KeyFileError):
    """Others can read the file."""

    def __init__(self, path: str, mode: str) -> None:
        super().__init__(path, mode)
        self.path = path
        self.mode = mode

    def __str__(self) -> str:
        return f"{self.path} has mode {self.mode}, others could read it: run chmod 600 {self.path}"


class KeyFileUnreadableError(KeyFileError):
    """The file is not there, or cannot be read or written."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path} {self.why}"


class KeyFileExistsError(KeyFileError):
    """Something stands where a new key should go; keys are never overwritten."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} exists, and keys are never overwritten: choose another name"


class WrongPasswordError(KeyFileError):
    """The password is another one, or the file was changed; the two cannot be told apart."""

    def __str__(self) -> str:
        return "the password does not open this key file (or the file is damaged): try again, or use a copy"


class WeakPasswordError(KeyFileError):
    """The password is too short."""

    def __init__(self, size_min: int) -> None:
        super().__init__(size_min)
        self.size_min = size_min

    def __str__(self) -> str:
        return f"a password has at least {self.size_min} bytes: use several words"


class PasswordNeededError(KeyFileError):
    """The file is sealed, and nothing says where its password is."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is protected by a password: name its password_file (--password-file)"


class PlainKeyRefusedError(KeyFileError):
    """The file is not encrypted, where money is real or a password was named."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is not encrypted: run chrysalis wallet rotate-password {self.path}"
