"""What a person says to `curb init`, checked before anything is asked of anybody. No answer is a secret."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

Gateway = Literal["litellm", "file", "otlp", "other", "none"]
Chat = Literal["none", "webhook", "bot"]

#: Upper case only: a key or a token that is pasted by mistake is refused, not looked up and shown.
_NAME = re.compile(r"^[A-Z_][A-Z0-9_]*$")
_CHANNEL = re.compile(r"^[CGD][A-Z0-9]{6,}$")
_SERVER = re.compile(r"^[A-Za-z0-9._\[\]:-]+:\d{1,5}$")
#: Hosts of this machine: a proxy there reaches Curb on loopback.
_HERE = ("localhost", "127.0.0.1", "::1")

#: Environment variables of tokens that senders show to Curb, by gateway.
TOKENS: Mapping[Gateway, str] = {
    "litellm": "CURB_LITELLM_TOKEN",
    "otlp": "CURB_OTEL_TOKEN",
    "other": "CURB_INGEST_TOKEN",
}
LITELLM_KEY, LITELLM_URL = "CURB_LITELLM_KEY", "CURB_LITELLM_URL"
SLACK_WEBHOOK, SLACK_TOKEN = "CURB_SLACK_WEBHOOK", "CURB_SLACK_TOKEN"
API_TOKEN = "CURB_API_TOKEN"


class WrongAnswerError(ValueError):
    """An answer that cannot be used; the text says what is needed and never repeats a possible secret."""


@dataclass(frozen=True)
class Answers:
    """Everything that the file depends on, beside what is found at the gateway."""

    gateway: Gateway = "other"
    litellm_url: str = ""
    #: Name of the environment variable that holds the proxy's master key.
    litellm_key_env: str = LITELLM_KEY
    usage_file: str = ""
    log_directory: str = "curb-data"
    #: Brokers, separated by commas; "" for the embedded log.
    kafka: str = ""
    slack: Chat = "none"
    slack_env: str = ""
    slack_channel: str = ""
    #: Dollars of all spend in a month, where they are known.
    monthly_usd: float | None = None
    time_zone: str = "UTC"
    #: Where Curb listens.
    port: int = 8088

    @property
    def is_remote(self) -> bool:
        """True when the gateway is on another machine, so that Curb must listen on all addresses."""
        return self.gateway == "litellm" and urlsplit(self.litellm_url).hostname not in _HERE


def checked(answers: Answers) -> Answers:
    """The answers, complete. Raises WrongAnswerError."""
    if answers.gateway == "litellm":
        litellm_url(answers.litellm_url)
        variable(answers.litellm_key_env, LITELLM_KEY)
    if answers.gateway == "file" and not answers.usage_file.strip():
        raise WrongAnswerError("--usage-file is needed: a file, a directory or a pattern of JSON lines")
    if answers.kafka:
        brokers(answers.kafka)
    if answers.slack != "none":
        variable(answers.slack_env, SLACK_WEBHOOK if answers.slack == "webhook" else SLACK_TOKEN)
    if answers.slack == "bot":
        channel(answers.slack_channel)
    if answers.monthly_usd is not None and not 0 < answers.monthly_usd < 1e12:
        raise WrongAnswerError("--monthly-usd must be a number of dollars above 0")
    try:
        ZoneInfo(answers.time_zone)
    except (ValueError, OSError, KeyError):
        raise WrongAnswerError("--time-zone must be a name such as UTC or Europe/Berlin") from None
    return answers


def one_of(given: str, kind: object, what: str) -> str:
    """`given` in lower case, one of the values of a Literal. Raises WrongAnswerError."""
    found, values = given.strip().lower(), get_args(kind)
    if found not in values:
        raise WrongAnswerError(f"{what} must be one of: {', '.join(values)}")
    return found


def variable(given: str, example: str) -> str:
    """The name of an environment variable. Raises WrongAnswerError, without what was given."""
    if not _NAME.match(given):
        raise WrongAnswerError(
            f"the name of an environment variable is needed, such as {example}, in upper case; never the secret itself"
        )
    return given


def litellm_url(given: str) -> str:
    """The address of a proxy. Raises WrongAnswerError, without what was given."""
    try:
        parts = urlsplit(given)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        right = False
    if not right or "@" in given or parts.query or parts.fragment or not given.isprintable() or " " in given:
        raise WrongAnswerError("--litellm-url must be like http://litellm:4000, without user, password or query")
    return given


def brokers(given: str) -> str:
    """Kafka brokers. Raises WrongAnswerError."""
    if not all(_SERVER.match(each.strip()) for each in given.split(",")):
        raise WrongAnswerError("--kafka must be host:port, several separated by commas")
    return given


def channel(given: str) -> str:
    """The id of a Slack channel. Raises WrongAnswerError."""
    if not _CHANNEL.match(given):
        raise WrongAnswerError("--slack-channel must be the id of a channel, such as C0123456789")
    return given


def default_gateway(given_url: str | None, given_file: str | None) -> Gateway:
    """Files where they are given, LiteLLM where its address is known, else JSON lines that are posted."""
    if given_file:
        return "file"
    return "litellm" if given_url or os.environ.get(LITELLM_URL) else "other"


def fitting(gateway: Gateway, chat: Chat, flags: Mapping[str, object]) -> None:
    """Raises WrongAnswerError for a flag that was given and means nothing with the gateway or the chat."""
    unfit: dict[str, str] = {}
    if gateway != "litellm":
        unfit |= dict.fromkeys(("--litellm-url", "--litellm-key-env"), "--gateway litellm")
    if gateway != "file":
        unfit["--usage-file"] = "--gateway file"
    if chat == "none":
        unfit["--slack-env"] = "--slack webhook or --slack bot"
    if chat != "bot":
        unfit["--slack-channel"] = "--slack bot"
    for flag, needed in unfit.items():
        if flags[flag] is not None:
            chosen = f"--slack is {chat}" if flag.startswith("--slack") else f"the gateway is {gateway}"
            raise WrongAnswerError(f"{flag} means nothing here, as {chosen}: give {needed} with it, or leave it out")
