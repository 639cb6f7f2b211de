from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.settings import EdgeSettings
from pipeline.tls import VALID_DAYS, _self_signed, server_context
from splitrtc_errors import BadArgument


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key, as files."""
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    for path, data in zip(paths, _self_signed("gpu-box"), strict=True):
        path.write_bytes(data)
    return paths


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> bytes:
    """The server's certificate, as the client sees it, after a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(3):
        for end in tuple(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    certificate = ends[0].getpeercert(binary_form=True)
    assert certificate is not None
    return certificate


def trusting(certificate: bytes) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=certificate)


def test_without_tls_there_is_no_context() -> None:
    assert server_context(EdgeSettings(), "127.0.0.1") == (None, None)


def test_a_certificate_from_files_is_served(files: tuple[Path, Path]) -> None:
    context, fingerprint = server_context(EdgeSettings(cert=files[0], key=files[1]), "127.0.0.1")
    assert context is not None
    assert fingerprint is None  # the UE trusts an authority instead
    certificate = ssl.PEM_cert_to_DER_cert(files[0].read_text())
    assert handshake(context, trusting(certificate), "gpu-box") == certificate


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "gpu-box.lan", "0.0.0.0"])
def test_a_self_signed_certificate_is_served_and_its_fingerprint_told(host: str) -> None:
    context, fingerprint = server_context(EdgeSettings(self_signed=True), host)
    assert context is not None
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    served = handshake(context, anyone, host)
    assert hashlib.sha256(served).hexdigest() == fingerprint
    # It names the host, so that it can also be given as an authority.
    assert handshake(context, trusting(served), host) == served


def test_old_versions_of_tls_are_refused(files: tuple[Path, Path]) -> None:
    context, _ = server_context(EdgeSettings(cert=files[0], key=files[1]), "127.0.0.1")
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_every_start_has_a_key_of_its_own_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fingerprints = {server_context(EdgeSettings(self_signed=True), "127.0.0.1")[1] for _ in range(2)}
    assert len(fingerprints) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_self_signed_certificate_lasts_for_a_while() -> None:
    certificate = x509.load_pem_x509_certificate(_self_signed("gpu-box")[0])
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).days == VALID_DAYS


def test_missing_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match=r"nowhere\.pem"):
        server_context(EdgeSettings(cert=tmp_path / "nowhere.pem", key=tmp_path / "key.pem"), "127.0.0.1")


def test_a_key_of_another_certificate_is_told(files: tuple[Path, Path]) -> None:
    files[1].write_bytes(_self_signed("gpu-box")[1])
    with pytest.raises(BadArgument, match=r"its key in .*key\.pem"):
        server_context(EdgeSettings(cert=files[0], key=files[1]), "127.0.0.1")


def test_a_key_behind_a_passphrase_is_refused_at_once(files: tuple[Path, Path]) -> None:
    """OpenSSL would ask for it on the terminal: a service would hang."""
    key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"passphrase"),
    )
    files[1].write_bytes(key)
    with pytest.raises(BadArgument, match="without a passphrase"):
        server_context(EdgeSettings(cert=files[0], key=files[1]), "127.0.0.1")
