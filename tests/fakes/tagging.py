"""The tagging API of AWS: ARNs by their tags, a page at a time."""

from __future__ import annotations

from typing import Any


def resources(given: dict[str, Any], tags: dict[str, dict[str, str]]) -> dict[str, Any]:
    """The answer of GetResources when `tags` is all there is, by ARN."""
    filters = {each["Key"]: each["Values"] for each in given["TagFilters"]}
    types = {tuple(each.split(":")) for each in given["ResourceTypeFilters"]}
    found = [
        {"ResourceARN": arn, "Tags": [{"Key": key, "Value": value} for key, value in each.items()]}
        for arn, each in sorted(tags.items())
        if type_of(arn) in types and all(each.get(key) in values for key, values in filters.items())
    ]
    start = int(given.get("PaginationToken") or 0)
    token = str(start + 1) if start + 1 < len(found) else ""
    return {"ResourceTagMappingList": found[start : start + 1], "PaginationToken": token}


def type_of(arn: str) -> tuple[str, str]:
    """(service, type) as ResourceTypeFilters spells them."""
    _, _, service, _, _, rest = arn.split(":", 5)
    return service, rest.replace("/", ":").partition(":")[0]
