"""Ed25519 keys and signatures of bundles. A device holds the public key; the private one never leaves the server."""

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from export.errors import InputError


def public_path(private: Path) -> Path:
    return private.with_name(private.name + ".pub")


def keygen(private: Path) -> Path:
    """Writes a new private key, readable by its owner alone, and its public key as KEY.pub; returns the latter's path.

    Raises:
        InputError: one of the files exists; a key is never overwritten.
    """
    public = public_path(private)
    for path in (private, public):
        if path.exists():
            raise InputError(
                f"{path} exists already. A key is never overwritten, for bundles signed with it would be lost: take "
                "another --out."
            )
    key = Ed25519PrivateKey.generate()
    private.parent.mkdir(parents=True, exist_ok=True)
    _write_new(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _write_new(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    return public


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The key that `keygen` wrote.

    Raises:
        InputError: the file can't be read, or is something else.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}, the signing key, can't be read ({error.strerror}). Make one: export keygen."
        ) from None
    if b"PUBLIC KEY" in data:
        raise InputError(f"{path} is a public key; signing takes the private one, {path.name.removesuffix('.pub')}.")
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(
            f"{path} is not an unencrypted private key in PEM. Give the file that `export keygen --out` wrote."
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} is not an Ed25519 key. Give the file that `export keygen --out` wrote.")
    return key


def _write_new(path: Path, data: bytes, mode: int) -> None:
    """Creates the file with these permissions from its first moment, or fails."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)
