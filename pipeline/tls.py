"""The edge's TLS context: from files, or a certificate of its own making whose fingerprint the UE pins."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from splitrtc_errors import BadArgument

if TYPE_CHECKING:
    from pipeline.settings import EdgeSettings

__all__ = ["server_context"]

VALID_DAYS = 30


def server_context(settings: EdgeSettings, host: str) -> tuple[ssl.SSLContext | None, str | None]:
    """The context to serve with (None: no TLS) and, for a self-signed certificate, its SHA-256 fingerprint in hex.

    Raises BadArgument for files that do not hold a certificate and its key.
    """
    if settings.self_signed:
        certificate, key = _self_signed(host)
        fingerprint = x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()
        # OpenSSL's interface loads keys from files only; the folder is readable by this user alone and gone at once.
        with tempfile.TemporaryDirectory() as folder:
            files = Path(folder, "cert.pem"), Path(folder, "key.pem")
            files[0].write_bytes(certificate)
            files[1].write_bytes(key)
            return _load(*files), fingerprint
    if settings.cert is not None and settings.key is not None:
        return _load(settings.cert, settings.key), None
    return None, None


def _load(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (OSError, ssl.SSLError) as error:
        raise BadArgument(f"TLS: expected a certificate in {certificate} and its key in {key}: {error}") from error
    return context


def _no_passphrase() -> str:
    # Left alone, OpenSSL asks on the terminal, where a service has nobody to answer.
    raise BadArgument("TLS: expected a key without a passphrase; `openssl pkey -in KEY -out NEW` takes it off")


def _self_signed(host: str) -> tuple[bytes, bytes]:
    """A certificate for ``host`` and its key, as PEM; made anew at every start."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "splitrtc edge")])
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # clocks of small devices are not exact
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
