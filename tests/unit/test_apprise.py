"""Apprise: its URLs are secrets, and what it sends is markup nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import apprise
import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from curb.actions.notify import wording
from curb.actions.notify.apprise import Config, inert
from curb.actions.notify.protocol import Notice
from tests.unit.test_text_safety import NASTY, nasty_alert, nasty_entry

BASE: dict[str, Any] = {"kind": "apprise", "name": "desk"}


def test_urls_stay_hidden_and_may_live_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "urls"
    secret.write_text("# two of them\njson://user:s3cret@localhost/a\n\nmailto://user:s3cret@example.org\n")
    config = Config.model_validate(BASE | {"urls_file": str(secret)})
    assert [url.get_secret_value().partition(":")[0] for url in config.urls] == ["json", "mailto"]
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize("urls", [[], ["nothing://here"], ["json://localhost", "no url"], ["pagerduty://"]])
def test_a_url_that_apprise_does_not_know_is_an_error_that_does_not_show_it(urls: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(BASE | {"urls": urls})
    assert "nothing://" not in str(caught.value)
    assert "no url" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "workflows://host.example/0123456789abcdef/aaaa-bbbb/",
        "pagerduty://IntegrationKey0123@ApiKey0123?action=map",
        "opsgenie://01234567-0123-0123-0123-0123456789ab/",
        "mailtos://user:password@example.org?to=oncall@example.org",
    ],
)
def test_the_services_of_the_reference_page_are_known(url: str) -> None:
    assert len(Config.model_validate(BASE | {"urls": [url]}).urls) == 1


@settings(max_examples=60, deadline=None)
@given(NASTY)
def test_what_is_sent_is_markup_nowhere(text: str) -> None:
    alert = nasty_alert(text)
    notice = Notice("k", alert, (nasty_entry(text, "applied"), nasty_entry(text, "proposed")))
    lines = [inert(line) for line in (wording.name(alert), *wording.plain_lines(notice))]
    for line in lines:
        assert line.isprintable()
        assert not set("*~`[]<>|\\#@&") & set(line)
        assert "://" not in line
        assert re.search(r"www\.", line, re.IGNORECASE) is None
        assert re.search(r"(^|\W)_|_(\W|$)", line) is None
    html = apprise.conversion.text_to_html("\n".join(lines))  # type: ignore[no-untyped-call]
    assert set(re.findall(r"<[^>]*>", html)) <= {"<br/>", "<br />", "<br>"}


def test_ordinary_names_stay_as_they_are() -> None:
    line = "team=search-rank api_key=ab12.cd rpm_limit none → 20: $12.00/h (79%)"
    assert inert(line) == line
