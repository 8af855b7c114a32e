"""A token endpoint of OAuth, client-credentials grant, whose tokens are signed and can be checked by its keys."""

from __future__ import annotations

import base64
import json
import time
from typing import Any
from urllib.parse import unquote_plus

from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

CLIENT, SECRET, AUDIENCE, ISSUER = "curb", "s3cret:with/odd chars+", "kafka-of-tests", "https://idp.example"
_KEY_ID = "key-1"


class IdentityProvider:
    """`life_s` is the life of the tokens; `broken` answers instead, while it is set."""

    def __init__(self, life_s: float = 3600.0) -> None:
        self.life_s = life_s
        self.broken: web.Response | None = None
        #: What was asked for, and how many requests came.
        self.asked: list[dict[str, str]] = []
        self.requests = 0
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/token", self._token)
        return app

    def keys(self) -> dict[str, Any]:
        """The public keys, as a JSON Web Key Set."""
        numbers = self._key.public_key().public_numbers()
        n, e = (_b64(number.to_bytes((number.bit_length() + 7) // 8, "big")) for number in (numbers.n, numbers.e))
        return {"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": _KEY_ID, "n": n, "e": e}]}

    def signed(self, life_s: float) -> str:
        """A token that Kafka's validator takes, for so many seconds."""
        now = int(time.time())
        claims = {"sub": CLIENT, "scope": "kafka", "iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + life_s}
        head = {"alg": "RS256", "typ": "JWT", "kid": _KEY_ID}
        said = ".".join(_b64(json.dumps(part).encode()) for part in (head, claims))
        return f"{said}.{_b64(self._key.sign(said.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    async def _token(self, request: web.Request) -> web.Response:
        self.requests += 1
        if self.broken is not None:
            return web.Response(status=self.broken.status, body=self.broken.body, headers=self.broken.headers)
        given = request.headers.get("Authorization", "").removeprefix("Basic ")
        login, _, password = base64.b64decode(given).decode().partition(":")
        if (unquote_plus(login), unquote_plus(password)) != (CLIENT, SECRET):
            said = {"error": "invalid_client", "error_description": f"no client {login} with {password}"}
            return web.json_response(said, status=401)
        form = dict(await request.post())
        if form.get("grant_type") != "client_credentials":
            return web.json_response({"error": "unsupported_grant_type"}, status=400)
        self.asked.append({name: str(value) for name, value in form.items()})
        answer = {"access_token": self.signed(self.life_s), "token_type": "bearer", "expires_in": str(self.life_s)}
        return web.json_response(answer)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
