"""The `[api]` table of the indexer's configuration.

host = "127.0.0.1"
port = 8480               # 0: any free one
rate_per_s = 50           # requests a second and client address; four times as many at once
forwarded_hops = 0        # proxies in front whose X-Forwarded-For is believed
max_lag_s = 300           # `/ready` says no when the indexed block is older
"""

from pydantic import BaseModel, ConfigDict, Field


class ApiSettings(BaseModel):
    """Where the API listens and what it allows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(default=8480, ge=0, le=65535)
    rate_per_s: float = Field(default=50.0, gt=0)
    forwarded_hops: int = Field(default=0, ge=0, le=10)
    max_lag_s: float = Field(default=300.0, gt=0)
