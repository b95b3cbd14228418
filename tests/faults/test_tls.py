"""Encrypted connections: a good certificate, a stranger's, an expired one, a device that must show its own."""

import datetime
import ipaddress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from line import agent, make_line
from mosquitto import Mosquitto

from edge_agent.config import MqttConfig, TlsConfig
from edge_agent.connection import probe

pytestmark = pytest.mark.broker
NOW = datetime.datetime.now(datetime.timezone.utc)


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def write_authority(path: Path):
    """A certificate authority; its name, key, and the file that others trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        x509.CertificateBuilder(name("plant"), name("plant"), key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=9))
        .not_valid_after(NOW + datetime.timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(Encoding.PEM))
    return certificate, key


def write_certificate(path: Path, authority, *, days=9):
    """path.pem and path.key for 127.0.0.1, signed by `authority`; expired where days is negative."""
    root, root_key = authority
    key = ec.generate_private_key(ec.SECP256R1())
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    certificate = (
        x509.CertificateBuilder(root.subject, name(path.name), key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=5))
        .not_valid_after(NOW + datetime.timedelta(days=days))
        .add_extension(names, critical=False)
        .add_extension(issuer, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    path.with_suffix(".pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.with_suffix(".key").write_bytes(secret)
    path.with_suffix(".key").chmod(0o600)


@pytest.fixture
def certificates(tmp_path):
    """ca.pem signed broker, expired and device; stranger.pem signed none of them."""
    authority = write_authority(tmp_path / "ca.pem")
    write_authority(tmp_path / "stranger.pem")
    write_certificate(tmp_path / "broker", authority)
    write_certificate(tmp_path / "expired", authority, days=-1)
    write_certificate(tmp_path / "device", authority)
    return tmp_path


def start(folder, *, certificate="broker", lines=()):
    tls = (f"certfile {folder / certificate}.pem", f"keyfile {folder / certificate}.key")
    return Mosquitto(folder / "mosquitto", lines=(*tls, *lines)).start()


def test_verdicts_go_over_an_encrypted_connection(certificates):
    broker = start(certificates)
    config = make_line(certificates, port=broker.port, parts=5, mqtt={"tls": {"ca_file": "ca.pem"}})
    done = agent("run", "--config", config)
    assert done.returncode == 0, done.stderr
    assert "5 verdicts delivered" in done.stderr
    broker.stop()


@pytest.mark.filterwarnings("ignore:.*SSLSocket")  # paho leaves the socket of a failed handshake to the collector
@pytest.mark.parametrize(
    ("certificate", "trusted", "why"),
    [("broker", "stranger", "unable to get local issuer certificate"), ("expired", "ca", "certificate has expired")],
)
def test_a_certificate_that_is_wrong_is_neither_unreachable_nor_refused(certificates, certificate, trusted, why):
    broker = start(certificates, certificate=certificate)
    tls = TlsConfig(ca_file=certificates / f"{trusted}.pem")
    outcome = probe(MqttConfig(host="127.0.0.1", port=broker.port, tls=tls), "press-7")
    assert outcome.status == "certificate"
    assert (
        f"No encrypted connection to the broker 127.0.0.1:{broker.port}: {why}. Check mqtt.tls.ca_file" in outcome.text
    )
    broker.stop()


def test_a_broker_that_wants_encryption_is_not_called_down(certificates):
    broker = start(certificates)
    outcome = probe(MqttConfig(host="127.0.0.1", port=broker.port), "press-7")
    assert outcome.status == "unreachable"
    assert "doesn't answer as an MQTT broker. Check mqtt.port, and mqtt.tls where the port wants" in outcome.text
    broker.stop()


def test_a_device_shows_its_own_certificate_where_the_broker_asks(certificates):
    broker = start(certificates, lines=(f"cafile {certificates / 'ca.pem'}", "require_certificate true"))
    own = {"certificate_file": certificates / "device.pem", "key_file": certificates / "device.key"}
    ca_file = certificates / "ca.pem"
    with_own = MqttConfig(host="127.0.0.1", port=broker.port, tls=TlsConfig(ca_file=ca_file, **own))
    assert probe(with_own, "press-7").status == "connected"
    without = MqttConfig(host="127.0.0.1", port=broker.port, tls=TlsConfig(ca_file=ca_file))
    assert probe(without, "press-7").status != "connected"
    broker.stop()


def test_missing_certificate_files_are_a_sentence(certificates):
    tls = TlsConfig(ca_file=certificates / "nothing.pem")
    outcome = probe(MqttConfig(host="127.0.0.1", port=1, tls=tls), "press-7")
    assert outcome.status == "refused"
    assert "mqtt.tls: the certificate files can't be read" in outcome.text
