"""Keys are made once, kept private, and read with a sentence for whatever is wrong."""

import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from edge_agent.bundle import read_public_key
from export.errors import InputError
from export.signing import keygen, read_private_key


def test_keygen_writes_a_pair_that_belongs_together(tmp_path):
    public = keygen(tmp_path / "keys" / "line.pem")
    assert public == tmp_path / "keys" / "line.pem.pub"
    assert stat.S_IMODE((tmp_path / "keys" / "line.pem").stat().st_mode) == 0o600
    signature = read_private_key(tmp_path / "keys" / "line.pem").sign(b"manifest")
    read_public_key(public).verify(signature, b"manifest")
    assert len(signature) == 64


@pytest.mark.parametrize("existing", ["line.pem", "line.pem.pub"])
def test_keys_are_never_overwritten(tmp_path, existing):
    (tmp_path / existing).write_text("precious")
    with pytest.raises(InputError, match=f"{existing} exists already. A key is never overwritten"):
        keygen(tmp_path / "line.pem")
    assert (tmp_path / existing).read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == [existing]


def test_what_is_no_signing_key(tmp_path):
    path = tmp_path / "key"
    with pytest.raises(InputError, match=r"can't be read \(No such file or directory\). Make one: export keygen"):
        read_private_key(path)
    path.write_text("hello")
    with pytest.raises(InputError, match="is not an unencrypted private key in PEM"):
        read_private_key(path)
    public = keygen(tmp_path / "line.pem")
    with pytest.raises(InputError, match=r"is a public key; signing takes the private one, line\.pem\."):
        read_private_key(public)
    locked = BestAvailableEncryption(b"secret")
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    with pytest.raises(InputError, match="is not an unencrypted private key"):
        read_private_key(path)
    other = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(InputError, match="is not an Ed25519 key"):
        read_private_key(path)
