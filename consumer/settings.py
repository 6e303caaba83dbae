"""What every section of the configuration file is made of."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, PlainSerializer, PlainValidator, ValidationInfo

from protocol.exceptions import InvalidField
from protocol.money import Money


class Settings(BaseModel):
    """A section: unknown names are refused, values never change. `folder` in the context is the file's own."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _money(value: Any) -> Money:
    if isinstance(value, Money):
        return value
    if not isinstance(value, str):
        raise ValueError("write an amount with its token, such as '2 USDC'")  # noqa: TRY004 - pydantic's
    try:
        return Money.parse(value)
    except InvalidField as error:
        raise ValueError(f"{value!r} is no amount ({error.reason}): write for example '2 USDC'") from error


def _beside_the_file(path: Path, info: ValidationInfo) -> Path:
    return Path((info.context or {}).get("folder", "")) / path


Amount = Annotated[Money, PlainValidator(_money), PlainSerializer(str)]
"""An amount as people write it: "2 USDC"."""

LocalPath = Annotated[Path, AfterValidator(_beside_the_file)]
"""A path, relative ones to the configuration file's folder."""
