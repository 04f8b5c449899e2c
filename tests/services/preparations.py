"""What a launch needs first, as a test has it: images that are there or not, and models that were read or not."""

import asyncio

from appliance.kernel.errors import ApplianceError
from appliance.kernel.progress import Progress
from appliance.launchers.contract import ImageInfo

TOTAL = 1000


class Slow:
    """Work that goes as far as the test lets it: by tenths, to its end, or into `trouble`."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.trouble: ApplianceError | None = None
        self.progress: Progress | None = None
        self.runs = 0
        self.gave_up = False
        self._end = asyncio.Event()

    def advance(self, tenths: int) -> None:
        assert self.progress is not None
        self.progress.report(tenths * TOTAL // 10, TOTAL)

    def finish(self) -> None:
        self._end.set()

    async def run(self, progress: Progress) -> None:
        self.runs += 1
        self.progress = progress
        self.begun.set()
        try:
            await self._end.wait()
        except asyncio.CancelledError:
            self.gave_up = True
            raise
        if self.trouble is not None:
            raise self.trouble


class Verifier:
    """Everything is verified, until a test takes `slow` up."""

    def __init__(self) -> None:
        self.slow: Slow | None = None

    async def is_verified(self, version_id: str) -> bool:  # noqa: ARG002 - the protocol's
        return self.slow is None

    async def verify(self, version_id: str, progress: Progress) -> None:  # noqa: ARG002 - the protocol's
        assert self.slow is not None
        await self.slow.run(progress)
        self.slow = None


class Images:
    """No image is here before it was pulled."""

    def __init__(self) -> None:
        self.slow = Slow()
        self.there: set[str] = set()

    async def exists(self, image: str) -> bool:
        return image in self.there

    async def inspect_image(self, image: str) -> ImageInfo:
        return ImageInfo(image_id=image, digests=(), size_bytes=0)

    async def pull(self, image: str, progress: Progress) -> None:
        await self.slow.run(progress)
        self.there.add(image)
