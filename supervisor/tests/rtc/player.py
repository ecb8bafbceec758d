"""aiortc as a WHEP player: `player.py URL [SECONDS]`.

Prints a JSON line a second with what was received and decoded, and {"ended": STATUS OF DELETE} at the end; ends after
SECONDS, or at SIGTERM. A refusal is a line with "error" and exit code 1.
"""

import asyncio
import json
import signal
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError


def say(**line):
    print(json.dumps(line), flush=True)


def http(method, url, body=None):
    """The status, the Location and the text of the answer."""
    data = body.encode() if body is not None else None
    fields = {"Content-Type": "application/sdp"} if body is not None else {}
    request = urllib.request.Request(url, data=data, headers=fields, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers.get("Location"), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, None, error.read().decode(errors="replace")


class Track:
    """What one track's frames tell."""

    def __init__(self):
        self.frames = 0
        self.longest_gap = 0.0
        self.last = None
        self.first = None
        self.luma = None
        self.spread = None
        self.size = None
        self.energy = 0.0
        self.samples = 0

    def arrived(self):
        now = time.monotonic()
        if self.last is None:
            self.first = now
        else:
            self.longest_gap = max(self.longest_gap, now - self.last)
        self.last = now
        self.frames += 1

    def picture(self, frame):
        self.arrived()
        self.size = [frame.width, frame.height]
        plane = frame.planes[0]
        # A line in sixteen is enough to tell a picture from a black one.
        lines = bytes(plane)[: plane.line_size * frame.height]
        some = b"".join(lines[y * plane.line_size :][: frame.width] for y in range(0, frame.height, 16))
        self.luma = sum(some) / len(some)
        self.spread = max(some) - min(some)

    def sound(self, frame):
        self.arrived()
        values = memoryview(bytes(frame.planes[0])).cast("h")
        self.energy += sum((value / 32768) ** 2 for value in values[::8])
        self.samples += frame.samples

    def line(self, start):
        def ms(seconds):
            return None if seconds is None else round(seconds * 1000)

        return {
            "frames": self.frames,
            "firstMs": ms(self.first and self.first - start),
            "longestGapMs": ms(self.longest_gap),
            "luma": self.luma,
            "spread": self.spread,
            "size": self.size,
            "energy": self.energy,
            "samples": self.samples,
        }


async def consume(track, seen):
    look = seen.picture if track.kind == "video" else seen.sound
    while True:
        try:
            look(await track.recv())
        except MediaStreamError:
            return


async def received(pc):
    """Packets and losses of each kind, as the receivers' RTCP says."""
    totals = {}
    for report in (await pc.getStats()).values():
        if report.type == "inbound-rtp":
            totals[report.kind] = {
                "packetsReceived": report.packetsReceived,
                "packetsLost": report.packetsLost,
                "jitter": report.jitter,
            }
    return totals


async def play(url, seconds):
    start = time.monotonic()
    pc = RTCPeerConnection()
    seen = {"audio": Track(), "video": Track()}
    tasks = []
    pc.addTransceiver("audio", direction="recvonly")
    pc.addTransceiver("video", direction="recvonly")
    pc.on("track", lambda track: tasks.append(asyncio.ensure_future(consume(track, seen[track.kind]))))
    await pc.setLocalDescription(await pc.createOffer())
    status, location, text = await asyncio.to_thread(http, "POST", url, pc.localDescription.sdp)
    if status != 201:
        say(error=f"{url} answered {status}: {text}")
        await pc.close()
        return 1
    await pc.setRemoteDescription(RTCSessionDescription(text, "answer"))
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    while not stop.is_set() and time.monotonic() - start < seconds:
        try:
            await asyncio.wait_for(stop.wait(), 1)
        except asyncio.TimeoutError:
            pass
        lines = {kind: track.line(start) for kind, track in seen.items()}
        say(state=pc.connectionState, **lines, received=await received(pc))
    await pc.close()
    ended = None
    if location:
        ended, _, _ = await asyncio.to_thread(http, "DELETE", urllib.parse.urljoin(url, location))
    say(ended=ended)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(play(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 300)))
