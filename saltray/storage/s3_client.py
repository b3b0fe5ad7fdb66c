"""The boto3 client of S3: retries, time limits, region, and the encryption that a bucket may demand."""

import os
from typing import TYPE_CHECKING

import boto3
import botocore.session
from botocore.config import Config
from botocore.configprovider import ConfigChainFactory
from botocore.loaders import create_loader

from saltray.errors import ConfigError, StorageError, one_line
from saltray.storage.s3_errors import stop_at_foreign_redirect

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_S, READ_S = 10.0, 60.0
ENCRYPTION, ENCRYPTION_KEY = "AWS_SERVER_SIDE_ENCRYPTION", "AWS_SSE_KMS_KEY_ID"
"""Variables that boto3 does not know. object_store, delta-rs and Polars read them by these names too."""
_ENCRYPTIONS = ("AES256", "aws:kms", "aws:kms:dsse")
_LOADER = create_loader()  # caches the description of S3: a second client then takes 20 ms, not 120


class LazyClient:
    """The boto3 client of this process, created on first use. A forked process creates its own with own sockets."""

    def __init__(self, deadline_s: float) -> None:
        self._config = Config(
            connect_timeout=min(CONNECT_S, max(deadline_s, 1.0)),
            read_timeout=min(READ_S, max(deadline_s, 1.0)),
            retries={"total_max_attempts": 2, "mode": "standard"},  # so that a failed part does not restart the file
            max_pool_connections=32,
            tcp_keepalive=True,
        )
        self._created: tuple[int, S3Client] | None = None

    def __call__(self) -> "S3Client":
        if self._created is None or self._created[0] != os.getpid():
            try:
                client = boto3.session.Session(botocore_session=_session()).client("s3", config=self._config)
            except ValueError as error:  # a malformed AWS_ENDPOINT_URL_S3 or region
                raise StorageError(
                    f"S3: {one_line(error)}; correct AWS_ENDPOINT_URL_S3 or AWS_DEFAULT_REGION"
                ) from error
            client.meta.events.register_first("needs-retry.s3", stop_at_foreign_redirect)
            self._created = os.getpid(), client
        return self._created[1]


def _session() -> botocore.session.Session:
    """A session that reads the environment and ~/.aws as botocore does, but for two settings."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _LOADER)
    chain, settings = ConfigChainFactory(session), session.get_component("config_store")
    # Unlike AWS's other clients, boto3 ignores AWS_REGION.
    regions = chain.create_config_chain("region", ["AWS_DEFAULT_REGION", "AWS_REGION"], "region")
    settings.set_config_provider("region", regions)
    # The signature already covers the body, and older servers reject trailing checksums.
    name = "request_checksum_calculation"
    checksums = chain.create_config_chain(name, f"AWS_{name.upper()}", name, default="when_required")
    settings.set_config_provider(name, checksums)
    return session


def encryption_from_environment() -> dict[str, str]:
    """Arguments of every request that creates an object; none unless AWS_SERVER_SIDE_ENCRYPTION is set.

    Buckets encrypt by themselves. This is for those whose policy refuses requests that do not ask for it.

    Raises:
        ConfigError: the variables do not name an encryption.
    """
    kind, key = os.environ.get(ENCRYPTION, ""), os.environ.get(ENCRYPTION_KEY, "")
    if (kind and kind not in _ENCRYPTIONS) or (key and not kind.startswith("aws:kms")):
        raise ConfigError(
            f"{ENCRYPTION} is {kind!r}" + f" and {ENCRYPTION_KEY} {key!r}" * bool(key) + "; set it to aws:kms, with a "
            f"key in {ENCRYPTION_KEY} if it is not the account's own, or to AES256 or aws:kms:dsse, or unset both"
        )
    return ({"ServerSideEncryption": kind} if kind else {}) | ({"SSEKMSKeyId": key} if key else {})
