"""What the environment says: AUTOTUNE_* variables."""

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="AUTOTUNE_", env_ignore_empty=True)

    storage: str = "sqlite:///autotune.db"
    """SQLAlchemy URL of the database that holds Optuna's tables and ours."""
    ray_address: str | None = None
    """A running Ray cluster; None starts a local one."""
    log_level: str = "warning"
