"""A headless Chromium with the page of this folder, driven by the DevTools protocol. It sees 127.0.0.1 alone."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

HERE = Path(__file__).parent
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WAIT = 60.0

FLAGS = (
    "--headless=new",
    "--remote-debugging-port=0",
    "--allow-loopback-in-peer-connection",
    "--disable-features=WebRtcHideLocalIpsWithMdns",  # without candidates by name, which nothing here resolves
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The DevTools address of a running browser."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium on this machine: sudo apt-get install -y chromium")
    folder = tmp_path_factory.mktemp("chromium")
    flags = [*FLAGS, f"--user-data-dir={folder}"]
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # which does not work for root
    process = subprocess.Popen(
        [program, *flags, "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(folder)},
        start_new_session=True,  # with all its processes it can be ended
    )
    try:
        told = folder / "DevToolsActivePort"
        deadline = time.monotonic() + WAIT
        while not (told.exists() and told.read_text(encoding="ascii").count("\n")):
            assert process.poll() is None, "Chromium did not start"
            assert time.monotonic() < deadline, "Chromium says nothing"
            time.sleep(0.02)
        port, path = told.read_text(encoding="ascii").split()
        yield f"ws://127.0.0.1:{port}{path}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Page:
    """The page in a tab of its own, at ``origin``. Its functions are called with JSON values, and give such."""

    def __init__(self, devtools: aiohttp.ClientWebSocketResponse, origin: str) -> None:
        self.origin = origin
        self._devtools = devtools
        self._session: str | None = None
        self._numbers = itertools.count(1)
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def open(self, context: str) -> None:
        target = await self._ask("Target.createTarget", url="about:blank", browserContextId=context)
        attached = await self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        await self._ask("Page.navigate", url=f"{self.origin}/page.html")
        # Navigating has ended when the new document answers, and its script, which does not wait, has run.
        async with asyncio.timeout(WAIT):
            while not await self._evaluate("typeof split === 'function'"):  # noqa: ASYNC110 - the browser's matter
                await asyncio.sleep(0.01)

    async def call(self, function: str, *arguments: object) -> Any:
        """What the function returns or its promise becomes; AssertionError when it throws."""
        return await self._evaluate(f"{function}({', '.join(map(json.dumps, arguments))})")

    async def new_context(self) -> str:
        context: str = (await self._ask("Target.createBrowserContext"))["browserContextId"]
        return context

    async def close(self, context: str) -> None:
        self._session = None
        await self._ask("Target.disposeBrowserContext", browserContextId=context)

    async def _evaluate(self, expression: str) -> Any:
        outcome = await self._ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in outcome, outcome["exceptionDetails"]["exception"].get("description")
        return outcome["result"].get("value")

    async def _ask(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self._numbers)
        reply_to = self._replies[number] = asyncio.get_running_loop().create_future()
        session = {} if self._session is None else {"sessionId": self._session}
        await self._devtools.send_json({"id": number, "method": method, "params": parameters, **session})
        async with asyncio.timeout(WAIT):
            reply = await reply_to
        assert "error" not in reply, reply["error"]
        result: dict[str, Any] = reply["result"]
        return result

    async def listen(self) -> None:
        """Sort the replies, until the socket ends."""
        async for message in self._devtools:
            reply = json.loads(message.data)
            if "id" in reply:  # else it is an event
                self._replies.pop(reply["id"]).set_result(reply)


@pytest.fixture
async def page(chromium: str, unused_tcp_port: int) -> AsyncIterator[Page]:
    """The page, served on a port of its own and opened."""
    app = web.Application()
    app.router.add_static("/", HERE)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
    try:
        async with aiohttp.ClientSession() as http, http.ws_connect(chromium, max_msg_size=0) as devtools:
            page = Page(devtools, f"http://127.0.0.1:{unused_tcp_port}")
            listening = asyncio.create_task(page.listen())
            context = await page.new_context()
            await page.open(context)
            yield page
            await page.close(context)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
    finally:
        await runner.cleanup()
