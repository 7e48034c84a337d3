"""Where everything of a coordinator lies."""

from dataclasses import dataclass
from pathlib import Path

from interplant.core import config
from interplant.core.errors import UsageError
from interplant.core.schema import Federation


@dataclass(frozen=True)
class CoordinatorDirectory:
    """A folder that `interplant.server.setup.init` has made."""

    path: Path

    @property
    def config(self) -> Path:
        """``federation.yaml``."""
        return self.path / "federation.yaml"

    @property
    def keys(self) -> Path:
        """Secrets, and the certificates and public keys that belong to them."""
        return self.path / "keys"

    @property
    def ca_key(self) -> Path:
        """Private key of the certificate authority."""
        return self.keys / "ca.key"

    @property
    def ca_certificate(self) -> Path:
        """Certificate of the authority: the trust root."""
        return self.keys / "ca.crt"

    @property
    def server_key(self) -> Path:
        """Private key of the gRPC server."""
        return self.keys / "server.key"

    @property
    def server_certificate(self) -> Path:
        """Certificate of the gRPC server."""
        return self.keys / "server.crt"

    @property
    def release_key(self) -> Path:
        """Private key that signs releases."""
        return self.keys / "release.key"

    @property
    def release_public_key(self) -> Path:
        """Public key that checks releases."""
        return self.keys / "release.pub"

    @property
    def release_keys(self) -> Path:
        """Statements by which each signing key has handed over to the next; see `interplant.core.keyring`."""
        return self.keys / "release-keys.json"

    @property
    def runs(self) -> Path:
        """One folder a run: checkpoints and summary."""
        return self.path / "runs"

    @property
    def releases(self) -> Path:
        """One folder a release."""
        return self.path / "releases"

    @property
    def spool(self) -> Path:
        """Uploads on their way in."""
        return self.path / "spool"

    @property
    def control_socket(self) -> Path:
        """Unix socket between commands and the serving process."""
        return self.path / "control.sock"

    def load(self) -> Federation:
        """Read ``federation.yaml``.

        Raises:
            UsageError: This is no coordinator directory, or the file is wrong.
        """
        self.check()
        return config.load(self.config, Federation)

    def check(self) -> None:
        """Raise `UsageError` unless this is a coordinator directory."""
        if not self.config.is_file() or not self.keys.is_dir():
            raise UsageError(
                f"{self.path}: expected a coordinator directory (federation.yaml and keys/), found "
                "none; make one with `interplant coordinator init`"
            )
