from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from aiohttp import web

import pipeline.sources.video as video
from pipeline.sources import Picture, Source, VideoFile, VideoUrl
from splitrtc_errors import SourceError


def read_all(source: Source) -> list[Picture]:
    """Every picture of a source that ends."""
    source.open()
    try:
        return list(iter(source.read, None))
    finally:
        source.close()


@asynccontextmanager
async def serving(handler: Callable[[web.Request], object]) -> AsyncIterator[str]:
    """A web server on the loopback; yields its URL."""
    application = web.Application()
    application.router.add_get("/{name:.*}", handler)  # type: ignore[arg-type]
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """Wait less long for a server than usual; the limit in seconds."""
    monkeypatch.setattr(video, "NETWORK_TIMEOUT", 0.4)
    return 0.4


def test_every_picture_comes_once_with_its_position(
    make_video: Callable[..., Path], grey_index: Callable[[np.ndarray], int]
) -> None:
    source = VideoFile(make_video(frames=12, fps=25))
    for _ in range(2):  # a second time after closing
        pictures = read_all(source)
        assert [grey_index(picture.image) for picture in pictures] == list(range(12))
        assert [picture.pts for picture in pictures] == pytest.approx([index / 25 for index in range(12)])
        assert source.fps == 25
        assert not source.live
    assert pictures[0].image.shape == (48, 64, 3)
    assert pictures[0].image.dtype == np.uint8
    assert all(picture.image.flags.c_contiguous for picture in pictures)


def test_positions_of_a_variable_rate_are_kept_and_start_at_zero(make_video: Callable[..., Path]) -> None:
    times = [2.0, 2.04, 2.5, 2.52]
    pictures = read_all(VideoFile(make_video("vfr.mkv", frames=4, times=times)))
    assert [picture.pts for picture in pictures] == pytest.approx([0.0, 0.04, 0.5, 0.52], abs=0.002)


def test_a_file_that_is_too_fast_is_thinned_out_and_keeps_its_time(make_video: Callable[..., Path]) -> None:
    source = VideoFile(make_video(frames=10, fps=30), fps=10)
    for _ in range(2):
        assert [picture.pts for picture in read_all(source)] == pytest.approx([0.0, 0.1, 0.2, 0.3])
        assert source.fps == 10


def test_a_file_that_is_slower_than_asked_stays_as_it_is(make_video: Callable[..., Path]) -> None:
    source = VideoFile(make_video(frames=3, fps=10), fps=30)
    assert [picture.pts for picture in read_all(source)] == pytest.approx([0.0, 0.1, 0.2])
    assert source.fps == 10


def test_raw_video_without_times_is_paced_by_its_rate(make_video: Callable[..., Path]) -> None:
    pictures = read_all(VideoFile(make_video("raw.h264", frames=5, fps=25)))
    assert len(pictures) == 5
    steps = np.diff([picture.pts for picture in pictures])
    assert steps == pytest.approx(1 / 25)


def test_a_width_that_is_no_multiple_of_anything(make_video: Callable[..., Path]) -> None:
    (picture,) = read_all(VideoFile(make_video("odd.mkv", frames=1, size=(70, 34))))
    assert picture.image.shape == (34, 70, 3)
    assert np.ptp(picture.image, axis=(0, 1)).max() <= 2


def test_big_pictures_are_decoded_by_several_threads(make_video: Callable[..., Path]) -> None:
    pictures = read_all(VideoFile(make_video(frames=2, size=(2048, 1104))))
    assert [picture.image.shape for picture in pictures] == [(1104, 2048, 3)] * 2


def rotated(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Write the upper left of a display matrix into an mp4's track header (ISO/IEC 14496-12, 8.3.2), as phones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [((1, 0, 0, 1), 0), ((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)],
    ids=["upright", "quarter clockwise", "half", "quarter counter-clockwise"],
)
def test_a_phones_rotation_is_undone(tmp_path: Path, matrix: tuple[int, int, int, int], turns: int) -> None:
    path = tmp_path / "phone.mp4"
    stored = np.zeros((48, 64, 3), np.uint8)
    stored[:24, :32] = 255  # the upper left quarter is white
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="bgr24")))
        container.mux(stream.encode(None))
    (picture,) = read_all(VideoFile(rotated(path, matrix)))
    expected = np.rot90(stored, turns)
    assert picture.image.shape == expected.shape
    assert np.abs(picture.image.astype(int) - expected).mean() < 5
    assert picture.image.flags.c_contiguous


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(SourceError, match=r"cannot open gone\.mp4: No such file"):
        VideoFile("gone.mp4").open()


def test_a_file_that_is_no_video_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("no video at all\n" * 100)
    with pytest.raises(SourceError, match="Invalid data"):
        VideoFile(path).open()


def test_a_file_with_sound_only_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    source = VideoFile(path)
    with pytest.raises(SourceError, match="no video stream"):
        source.open()
    source.close()


def damage(path: Path, which: Callable[[int], bool]) -> None:
    """Overwrite the beginning of the packets for which ``which`` holds."""
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for number, (position, size) in enumerate(places):
        assert position is not None
        if which(number):
            data[position : position + size] = b"\xff" * size
    path.write_bytes(data)


def test_damaged_pictures_are_skipped_and_counted(
    make_video: Callable[..., Path], grey_index: Callable[[np.ndarray], int]
) -> None:
    path = make_video(frames=6)
    damage(path, lambda number: number in (2, 3))
    source = VideoFile(path)
    assert [grey_index(picture.image) for picture in read_all(source)] == [0, 1, 4, 5]
    assert source.damaged == 2


def test_only_damage_in_a_row_ends_a_stream(make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_DAMAGED", 1)
    path = make_video(frames=8)
    damage(path, lambda number: number % 2 == 1)
    assert len(read_all(VideoFile(path))) == 4


def test_nothing_but_damage_is_an_error(make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "MAX_DAMAGED", 3)
    path = make_video(frames=12)
    damage(path, lambda number: number >= 2)
    with pytest.raises(SourceError, match="4 damaged packets in a row"):
        read_all(VideoFile(path))


async def test_a_file_on_a_web_server_is_played_like_a_file(make_video: Callable[..., Path]) -> None:
    path = make_video(frames=6)

    async def serve(request: web.Request) -> web.FileResponse:
        return web.FileResponse(path)

    async with serving(serve) as url:
        source = VideoUrl(f"{url}/clip.mp4")
        pictures = await asyncio.to_thread(read_all, source)
    assert [picture.pts for picture in pictures] == pytest.approx([index / 30 for index in range(6)])
    assert not source.live


async def mjpeg(request: web.Request, path: Path, pictures: int) -> web.StreamResponse:
    """What network cameras send: JPEG pictures in a multipart body that has no end."""
    response = web.StreamResponse(headers={"Content-Type": "multipart/x-mixed-replace; boundary=frame"})
    await response.prepare(request)
    with av.open(str(path)) as container:
        jpegs = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for jpeg in jpegs[:pictures]:
        head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
        await response.write(head.encode() + jpeg + b"\r\n")
    return response


async def test_a_network_camera_is_live_and_its_end_is_an_error(make_video: Callable[..., Path]) -> None:
    path = make_video("camera.avi", frames=40, codec="mjpeg")

    async def serve(request: web.Request) -> web.StreamResponse:
        return await mjpeg(request, path, 40)

    def watch(source: Source) -> list[Picture]:
        pictures = []
        source.open()
        assert source.live
        with pytest.raises(SourceError, match="the camera or the server closed the stream"):
            while (picture := source.read()) is not None:
                pictures.append(picture)
        source.close()
        return pictures

    async with serving(serve) as url:
        pictures = await asyncio.to_thread(watch, VideoUrl(f"{url}/video"))
    assert len(pictures) >= 39  # the reader tells a picture's end by the next boundary
    assert {picture.pts for picture in pictures} == {None}


async def test_a_network_camera_that_falls_silent_is_an_error_in_time(
    make_video: Callable[..., Path], impatient: float
) -> None:
    path = make_video("camera.avi", frames=40, codec="mjpeg")
    released = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        response = await mjpeg(request, path, 40)
        await released.wait()
        return response

    def watch(source: Source) -> float:
        source.open()
        start = time.monotonic()
        with pytest.raises(SourceError, match=r"no answer within 0\.4 s"):
            while source.read() is not None:
                start = time.monotonic()
        source.close()
        return time.monotonic() - start

    async with serving(serve) as url:
        waited = await asyncio.to_thread(watch, VideoUrl(f"{url}/video"))
        released.set()
    assert waited < impatient + 1


async def test_a_server_that_refuses_is_named_without_the_password() -> None:
    async def serve(request: web.Request) -> web.Response:
        return web.Response(status=401)

    async with serving(serve) as url:
        source = VideoUrl(url.replace("http://", "http://user:secret@") + "/a.mp4?token=secret")
        with pytest.raises(SourceError, match=re.escape(f"cannot open {url}/a.mp4: ")) as caught:
            await asyncio.to_thread(source.open)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_an_address_where_nobody_listens_is_an_error(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(SourceError, match="Connection refused"):
        VideoUrl(f"{scheme}://127.0.0.1:{port}/x").open()


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_never_answers_is_an_error_in_time(scheme: str, impatient: float) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        start = time.monotonic()
        source = VideoUrl(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/x")
        with pytest.raises(SourceError, match=r"no answer within 0\.4 s"):
            source.open()
        source.close()
    assert time.monotonic() - start < impatient + 1


async def test_a_playlist_cannot_open_local_files(make_video: Callable[..., Path]) -> None:
    path = make_video("part.ts", frames=6)

    async def serve(request: web.Request) -> web.Response:
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{path}\n#EXT-X-ENDLIST\n"
        return web.Response(text=text, content_type="application/vnd.apple.mpegurl")

    async with serving(serve) as url:
        with pytest.raises(SourceError):
            await asyncio.to_thread(read_all, VideoUrl(f"{url}/list.m3u8"))


SDP = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"


def rtp_packets(frames: int) -> list[bytes]:
    """A short H.264 video as RTP packets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        packets = []
        url = f"rtp://127.0.0.1:{receiver.getsockname()[1]}"
        with av.open(url, "w", format="rtp") as container:
            stream = container.add_stream("libx264", rate=30, options={"tune": "zerolatency", "crf": "4"})
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.gop_size = 5
            for index in range(frames):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 + index, np.uint8), format="bgr24")
                frame.pts, frame.time_base = index, Fraction(1, 30)
                container.mux(stream.encode(frame))
                while True:
                    try:
                        packets.append(receiver.recv(65536))
                    except BlockingIOError:
                        break
    return packets


@contextmanager
def rtsp_camera(packets: list[bytes]) -> Iterator[str]:
    """An RTSP server for one client (RFC 2326, RTP interleaved): sends the packets, then hangs up."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            method = ""
            while method != "PLAY":
                method = lines.readline().decode().partition(" ")[0]
                headers = dict(line.decode().strip().split(": ", 1) for line in iter(lines.readline, b"\r\n"))
                body = SDP if method == "DESCRIBE" else b""
                reply = [f"RTSP/1.0 200 OK\r\nCSeq: {headers['CSeq']}\r\nSession: 1\r\n"]
                if method == "SETUP":
                    reply.append(f"Transport: {headers['Transport']}\r\n")
                reply.append(f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n")
                connection.sendall("".join(reply).encode() + body)
            for packet in packets:
                connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"rtsp://user:secret@127.0.0.1:{listener.getsockname()[1]}/main"
        thread.join()


def test_an_rtsp_camera_is_live_and_says_when_it_disappears() -> None:
    with rtsp_camera(rtp_packets(90)) as url:
        source = VideoUrl(url)
        source.open()
        assert source.live
        levels = []
        with pytest.raises(SourceError, match=r"^rtsp://127\.0\.0\.1:\d+/main ") as caught:
            while (picture := source.read()) is not None:
                assert picture.pts is None
                levels.append(round(picture.image.mean()))
        source.close()
    assert "secret" not in str(caught.value)
    assert levels == sorted(levels)
    assert levels[-1] - levels[0] >= 85
    assert len(levels) >= 80
