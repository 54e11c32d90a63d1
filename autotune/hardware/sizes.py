"""Sizes of memory as people write them."""

import re
from decimal import Decimal
from types import MappingProxyType

from autotune.errors import BadInput

MIB, GIB = 2**20, 2**30
SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*|%)\s*", re.ASCII)

UNIT_BYTES = MappingProxyType(
    {
        "": 1,
        "b": 1,
        **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)},
        **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
    }
)
MAX_BYTES = 2**60


def parse_size(text: str, total_bytes: int | None = None) -> int:
    """Bytes of `22GiB`, `80GB`, `1500MiB`, `17179869184`, or of `90%` where `total_bytes` says of what.

    Upper and lower case mean the same, GB is 10⁹ and GiB 2³⁰ bytes; fractions of a byte are cut off. Raises
    BadInput where `text` is no such size, is nothing, or exceeds the whole.
    """
    match = SIZE.fullmatch(text)
    if match is None:
        raise BadInput(f"{text[:80]!r} is not a size; write it as 22GiB, 80GB, 1500MiB or 90%")
    number, unit = Decimal(match[1]), match[2].lower()
    if unit == "%":
        if total_bytes is None:
            raise BadInput(f"{text!r} is a share of an unknown whole; write the size itself, as in 22GiB")
        if not 0 < number <= 100:
            raise BadInput(f"{text!r} is not a share between 0 and 100 %")
        size = int(total_bytes * number / 100)
    elif unit in UNIT_BYTES:
        size = int(number * UNIT_BYTES[unit])
    else:
        raise BadInput(f"{match[2][:20]!r} is not a unit of memory; use GiB, GB, MiB, MB, or %")
    if not 0 < size <= MAX_BYTES:
        raise BadInput(f"{text!r} is not a size that a device can have")
    return size


def parse_share(text: str, what: str) -> float:
    """A share such as `5%` or `0.05`, from 0 to less than 1; raises BadInput naming `what` it is of."""
    number = text.strip()
    try:
        share = float(number[:-1]) / 100 if number.endswith("%") else float(number)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise BadInput(f"{what} {text!r} is not a share; write it as 5% or 0.05, below 100%")
    return share


def format_bytes(size: int) -> str:
    """Bytes for people: `1.07 GiB`, and `512 MiB` where GiB would be less than one."""
    gib = size / GIB
    return f"{gib:,.2f} GiB" if gib >= 1 else f"{size / 2**20:,.0f} MiB"
