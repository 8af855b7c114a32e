"""What a person does about an alert of each kind: the runbook on the page of an incident."""

from __future__ import annotations

from curb.stream.records.spend import AlertKind

WHAT_TO_DO: dict[AlertKind, tuple[str, ...]] = {
    "runaway": (
        "Ask the owner of the key or job whether it is theirs: a loop, a retry storm or a test often is.",
        "If Curb waits for an answer, approve or deny it above. Until then it costs what the figures say.",
        "If it is wanted, say that it is planned work, with the dollars it may cost.",
    ),
    "abusive": (
        "Find out who uses the key: a leaked key is rotated, not only limited.",
        "If Curb waits for an answer, approve it above; undo it when the key is safe again.",
        "If it is honest use that grew, say that it is not an anomaly.",
    ),
    "unit_cost": (
        "See what changed: a model, a prompt or the length of answers. A deploy near its start is a good first guess.",
        "Roll back, or say that it is planned work if the new cost is wanted.",
    ),
    "idle": (
        "Check that nothing needs the machines, then stop them, or let Curb do it.",
        "Machines that wait for a job that is about to begin: snooze.",
    ),
    "growth": (
        "Compare with users and requests: growth with them is business, growth without them is a leak.",
        "Set a budget if there is none, so that the next step is noticed at once.",
    ),
    "budget": (
        "See who spends it: the series below it are one link away.",
        "Slow down who spends it, or raise the budget for a time.",
    ),
    "pricing": (
        "Add a price for the model to the price book: until then its spend is estimated, or not seen at all.",
        "See the price of a model: curb prices show MODEL.",
    ),
    "feed": (
        "Spend of this source is not seen, or only in part: what it does now raises no alert.",
        "See the source's last error at the bottom of the first page, and curb connectors check.",
        "Repair it first; what was late is counted when it comes.",
    ),
    "commitment": (
        "See what was stopped or moved, or which plan has expired: the causes name accounts and services.",
        "Sell or exchange what nobody needs, buy again what has expired, or move usage to where it is paid for.",
        "If the new level is right, say that it is no anomaly: it is the usual from then on.",
    ),
    "waste": (
        "Do what the line says: lifecycle rules, deleting what nobody uses, checkpoints. Curb never deletes.",
        "If it is wanted, say that it is no anomaly: nothing more is said of it.",
    ),
    "ceiling": (
        "The key will reach its standing ceiling soon: then its requests are refused.",
        "If the growth is wanted, approve the higher ceiling that Curb proposes on the first page.",
    ),
}
