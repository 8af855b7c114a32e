"""Makes the pictures of the pages, docs/images/page-*.png, from a real run, with Chromium.

`python docs/page_pictures.py` runs the demo (its traffic, its gateway, the whole daemon) and opens each page while the
limit on the loop's key is in force, as a person who may operate sees it. Nothing is made up.
"""

from __future__ import annotations

import asyncio
import base64
import io
import shutil
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

import aiohttp
import yaml
from PIL import Image
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from curb.demo.run import run_demo  # noqa: E402
from tests.ports import free_port  # noqa: E402
from tests.real.chromium import Chromium, chromium  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SPEED, TOKEN = 120.0, "picture-token"
#: Name of the picture → page. {alert} and {action} are those of the loop, {series} its key.
PAGES = {
    "incident": "/alerts/{alert}",
    "now": "/",
    "series": "/series?scope=key",
    "one-series": "/series/one?scope=key&{series}",
    "alerts": "/alerts",
    "actions": "/actions",
    "config": "/config",
    "models": "/models",
}
#: Pixels of a picture: those below are left out.
_WIDE, _HEIGHT, _PHONE, _PHONE_HEIGHT = 1280, 1270, 390, 844


async def throttled(http: aiohttp.ClientSession) -> dict[str, str]:
    """The alert, action and series of the loop, once its limit is in force on a page."""
    while True:
        try:
            async with http.get("/v1/alerts?status=firing") as answer:
                pages = [each for each in await answer.json() if each["tier"] == "page" and each["scope"] == "key"]
            async with http.get("/v1/actions") as answer:
                held = {each["alert_id"]: each for each in await answer.json() if each["state"] == "effective"}
        except aiohttp.ClientConnectionError:
            pages, held = [], {}
        for alert in pages:
            if (entry := held.get(alert["alert_id"])) is not None:
                tags = urlencode([("tag", f"{key}={value}") for key, value in alert["tags"].items()])
                return {"alert": alert["alert_id"], "action": entry["action_id"], "series": tags}
        await asyncio.sleep(0.2)


async def picture(browser: Chromium, name: str, width: int, height: int) -> None:
    """Write what is shown."""
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    tall = await browser.run("document.documentElement.scrollHeight")
    clip["height"] = min(height, int(tall))
    shot = await browser.call("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    image = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    # Few colours are enough for text and lines, and a page of the docs loads faster.
    image.quantize(64).save(IMAGES / f"page-{name}.png", optimize=True)


async def shown(browser: Chromium, url: str) -> None:
    """Open a page, again until what it reads in the background is read."""
    for _ in range(40):
        await browser.go(url)
        text = await browser.text()
        if "is being read" not in text and "Reading the" not in text:
            return
        await asyncio.sleep(0.5)


async def take(url: str) -> None:
    """Sign in and take every picture."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(url, headers=headers) as http, chromium() as browser:
        found = await throttled(http)
        await browser.size(_WIDE)
        await browser.go(f"{url}/sign-in")
        await browser.follow(
            f"document.querySelector('[name=token]').value = '{TOKEN}'; document.querySelector('main form').submit()"
        )
        await browser.size(_PHONE)
        await browser.go(url + PAGES["incident"].format(**found))
        await picture(browser, "phone", _PHONE, _PHONE_HEIGHT)
        await browser.size(_WIDE)
        for name, path in PAGES.items():
            await shown(browser, url + path.format(**found))
            await picture(browser, name, _WIDE, _HEIGHT)


async def main() -> int:
    """Run it; 1 when the limit was not seen in force."""
    with tempfile.TemporaryDirectory() as temporary:
        directory, out, port = Path(temporary) / "demo", Path(temporary) / "out", free_port()
        shutil.copytree(ROOT / "curb" / "demo" / "data", directory)
        file = directory / "curb.yaml"
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        config["http"] = {"port": port, "token": TOKEN}
        file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        demo = asyncio.create_task(run_demo(directory, out, SPEED, Console(stderr=True)))
        taking = asyncio.create_task(take(f"http://127.0.0.1:{port}"))
        await asyncio.wait([demo, taking], return_when=asyncio.FIRST_COMPLETED)
        for each in (taking, demo):
            if not each.done():
                each.cancel()
        results = await asyncio.gather(taking, demo, return_exceptions=True)
    if isinstance(results[0], BaseException):
        print(f"no pictures: {results[0]!r}", file=sys.stderr)
    return int(isinstance(results[0], BaseException))


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
