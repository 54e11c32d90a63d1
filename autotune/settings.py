"""What the environment says: AUTOTUNE_* variables."""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="AUTOTUNE_", env_ignore_empty=True)

    storage: str = "sqlite:///autotune.db"
    """SQLAlchemy URL of the database that holds Optuna's tables and ours."""
    ray_address: str | None = None
    """A running Ray cluster; None starts a local one."""
    log_level: str = "warning"

    # Of the server.
    token: SecretStr | None = None
    """Allows everything; others, with less to them, are in the database (`autotune tokens`)."""
    hosts: str = ""
    """Names, besides localhost, that the server is asked by: with commas, or `*` for any."""
    factories: str = ""
    """Models as package.module:callable that may be asked for over HTTP, with commas: that code runs here."""
    executor: Literal["ray", "local"] = "ray"
    """Where probes of jobs run that do not say."""
    max_body_bytes: int = Field(default=1 << 20, gt=0)

    @property
    def allowed_factories(self) -> tuple[str, ...]:
        return _listed(self.factories)

    @property
    def known_hosts(self) -> tuple[str, ...]:
        return tuple(host.lower() for host in _listed(self.hosts))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part for word in text.split(",") if (part := word.strip()))
