"""How a loader works, as opposed to what it gives: no option here changes a sample or its place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge

from food101_fast.limits import check_limits
from food101_fast.loader.residence import Residence
from food101_fast.shards.split import Verify


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """Options of ShardLoader that the commands pass on."""

    residence: Residence = "auto"
    """Where images are after the first epoch: stream leaves them in their files, host holds them decoded in RAM, device
    in the GPU's memory; auto decides from what is free, and says so."""
    verify: Verify = "first-epoch"
    """When an image's bytes are compared with their checksum."""
    decode: Literal["cpu", "gpu"] = "cpu"
    """What decodes JPEG shards: the CPU, or the GPU (nvJPEG; needs the extra gpu-decode)."""
    threads: Annotated[int, Ge(1)] | None = None
    """Threads that load. By default one for raw shards (two in the first epoch), and one per core for others."""
    prefetch: Annotated[int, Ge(1)] = 4
    """Batches that are loaded ahead."""

    def __post_init__(self) -> None:
        check_limits(self)

    def arguments(self) -> dict[str, Any]:
        """As keyword arguments of ShardLoader."""
        return asdict(self)
