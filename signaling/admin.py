"""Provisioning of an edge's models over HTTP: upload, list, withdraw. For the operator alone, with a token of its own.

``PUT /admin/models/NAME/FILE`` puts a file into a model's folder, ``GET /admin/models`` lists them, ``DELETE
/admin/models/NAME`` takes a model away. What is served follows the folder; a model is one from when its card is there.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from models import ModelCard
from models.files import draft
from signaling.gate import Gate, problem_response
from signaling.problems import (
    MESSAGE_MALFORMATTED,
    NO_ROOM,
    NO_SUCH_FILE,
    TOO_MANY_TRANSFERS,
    Problem,
    make_problem,
    rejection,
)
from splitrtc_errors import ModelFileError, Rejected

__all__ = ["ADMIN_PATH", "MAX_UPLOAD", "ModelAdmin"]

ADMIN_PATH = "/admin/models"
MAX_UPLOAD = 2**31
"""Bytes of one file."""
MAX_MODELS = 256
MAX_FILES = 32
"""Of one model."""
MAX_UPLOADS = 2
"""At a time."""
MIN_RATE = 65_536
"""Bytes per second that an upload brings at least, after GRACE seconds."""
GRACE = 30.0
RETRY_AFTER = 5
"""Seconds."""
RATE = 2.0
"""Requests per second in the long run, of one address."""

WITHDRAWN = ".withdrawn"
_NAME = "[A-Za-z0-9][A-Za-z0-9_.-]{0,63}"
_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]{44}):\s*(?:,|$)")  # RFC 9530, section 2

T = TypeVar("T")


class ModelAdmin:
    """Changes what lies in ``folder``, for whoever has ``token``. BadArgument for a token that is none."""

    def __init__(self, folder: Path, token: str, max_upload: int = MAX_UPLOAD) -> None:
        self._folder = folder
        self._gate = Gate(token, RATE)
        self._max_upload = max_upload
        self._uploads = 0
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="admin")

    def close(self) -> None:
        """End the thread. Uploads have ended before."""
        self._disk.shutdown()

    def routes(self) -> list[web.RouteDef]:
        """What a server serves."""
        return [
            web.get(ADMIN_PATH, self._answer(self._list)),
            web.put(f"{ADMIN_PATH}/{{name:{_NAME}}}/{{file:{_NAME}}}", self._answer(self._upload)),
            web.delete(f"{ADMIN_PATH}/{{name:{_NAME}}}", self._answer(self._withdraw)),
        ]

    def _answer(self, handle: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
        async def answer(request: web.Request) -> web.StreamResponse:
            if (refusal := self._gate.refusal(request)) is not None:
                return refusal
            try:
                response: web.StreamResponse = await handle(request)
            except Rejected as error:
                return problem_response(Problem.from_json(error.problem))
            except OSError as error:
                return problem_response(make_problem(NO_ROOM, error.strerror or ""))
            return response

        return answer

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, *arguments)

    async def _list(self, _: web.Request) -> web.Response:
        return web.json_response({"models": await self._run(self._listed)})

    def _listed(self) -> list[dict[str, Any]]:
        folders = sorted(path for path in self._folder.glob("[!.]*/") if path.is_dir())
        return [
            {
                "name": folder.name,
                "files": [
                    {"name": path.name, "size": path.stat().st_size}
                    for path in sorted(folder.glob("[!.]*"))
                    if path.is_file()
                ],
            }
            for folder in folders
        ]

    async def _withdraw(self, request: web.Request) -> web.Response:
        if not await self._run(self._remove, self._folder / request.match_info["name"]):
            raise rejection(make_problem(NO_SUCH_FILE, "there is no such model"))
        return web.Response(status=204)

    def _remove(self, folder: Path) -> bool:
        if not folder.is_dir():
            return False
        gone = self._folder / WITHDRAWN / secrets.token_hex(8)  # deeper than where models are looked for
        gone.parent.mkdir(exist_ok=True)
        folder.rename(gone)  # in one step
        shutil.rmtree(gone, ignore_errors=True)
        return True

    async def _upload(self, request: web.Request) -> web.Response:
        name, file = request.match_info["name"], request.match_info["file"]
        match = _DIGEST.search(request.headers.get("Content-Digest", ""))
        if match is None:
            raise _bad("expected the header Content-Digest: sha-256=:BASE64: of what is uploaded")
        if Path(file).suffix not in (".onnx", ".json", ".data"):
            raise _bad("expected a name that ends in .onnx, .json or .data")
        size = request.content_length
        if size is None or request.headers.get("Content-Encoding"):
            raise _bad("expected a Content-Length, and no Content-Encoding")
        if size > self._max_upload:
            raise rejection(make_problem(NO_ROOM, f"a file has {self._max_upload} bytes at most"))
        if self._uploads >= MAX_UPLOADS:
            raise rejection(make_problem(TOO_MANY_TRANSFERS, retry_after=RETRY_AFTER))
        self._uploads += 1  # before the first await: the limit holds however many come at once
        try:
            async with asyncio.timeout(GRACE + size / MIN_RATE):
                return await self._receive(request, self._folder / name / file, match[1], size)
        except TimeoutError:
            raise _bad("the upload takes too long") from None
        finally:
            self._uploads -= 1

    async def _receive(self, request: web.Request, path: Path, digest: str, size: int) -> web.Response:
        is_new = await self._run(self._make_room, path)
        async with _drafted(self._run, path) as beside:
            file = await self._run(beside.open, "wb")
            state = hashlib.sha256()
            try:
                async for chunk in request.content.iter_any():
                    await self._run(file.write, chunk)
                    state.update(chunk)
            finally:
                await self._run(file.close)
            if state.digest() != _decoded(digest):
                raise _bad("the digest is another one: what came is not what was meant")
            if path.name == "card.json":
                await self._run(_check_card, beside, path.parent.name)
        return web.Response(status=201 if is_new else 204)

    def _make_room(self, path: Path) -> bool:
        """Have a model's folder; whether the file is new there."""
        if not path.parent.exists() and len(list(self._folder.glob("[!.]*/"))) >= MAX_MODELS:
            raise rejection(make_problem(NO_ROOM, f"there are {MAX_MODELS} models"))
        path.parent.mkdir(exist_ok=True)
        is_new = not path.exists()
        if is_new and len(list(path.parent.iterdir())) >= MAX_FILES:
            raise rejection(make_problem(NO_ROOM, f"a model has {MAX_FILES} files at most"))
        return is_new


@contextlib.asynccontextmanager
async def _drafted(run: Callable[..., Any], path: Path) -> AsyncIterator[Path]:
    """`models.files.draft`, in a thread."""
    drafting = draft(path)
    beside = await run(drafting.__enter__)
    try:
        yield beside
    except BaseException as error:
        await asyncio.shield(run(drafting.__exit__, type(error), error, error.__traceback__))
        raise
    await run(drafting.__exit__, None, None, None)


def _check_card(path: Path, name: str) -> None:
    try:
        card = ModelCard.load(path)
    except ModelFileError as error:
        raise _bad(str(error).replace(str(path), "card.json")) from error
    if card.name != name:
        raise _bad(f"the card is that of {card.name}, not {name}")


def _decoded(digest: str) -> bytes:
    with contextlib.suppress(binascii.Error):
        return base64.b64decode(digest, validate=True)
    return b""


def _bad(detail: str) -> Rejected:
    return rejection(make_problem(MESSAGE_MALFORMATTED, detail))
