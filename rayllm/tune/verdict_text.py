"""A verdict for people: one sentence, and the table behind it."""

from collections.abc import Sequence

from rayllm.tune.verdict import Contender, Kind, Lead, Verdict


def sentence_of(
    kind: Kind,
    contenders: Sequence[Contender],
    leads: Sequence[Lead],
    floor: float | None,
    missing: Sequence[str] = (),
) -> str:
    """The verdict in words.

    Args:
        kind: How it ended.
        contenders: Best first.
        leads: Of the best over the others that count, in their order.
        floor: The noise floor.
        missing: What should have been compared, and was not, in words.
    """
    by_group = {one.group: one for one in contenders}
    best = contenders[0]
    others = [by_group[lead.over] for lead in leads]
    if kind == "unknown":
        return f"No winner: no noise floor is known; {best.name} is lowest, {best.mean:.4f}."
    if kind == "baseline":
        return f"No winner: nothing that was tried is better than {best.name}, {best.mean:.4f}."
    if not others:
        return f"No winner: {best.name}, {best.mean:.4f}, has nothing to be compared with."
    if kind == "winner":
        seeds = f"{best.seeds} seeds" if best.seeds > 1 else "one seed"
        against = _join([_with_mean(one) for one in others])
        return (
            f"{best.name.capitalize()} wins: {best.mean:.4f} over {seeds}, against {against}; noise floor {floor:#.2g}."
        )
    tied = [by_group[lead.over] for lead in leads if not lead.clear]
    behind = [by_group[lead.over] for lead in leads if lead.clear and by_group[lead.over].baseline]
    if missing and not tied:
        return f"No winner: {best.name}, {best.mean:.4f}, leads, but was not compared with {_join(missing)}."
    text = (
        f"No winner: {_join([_with_mean(one) for one in (best, *tied)])} are tied, with a noise floor of {floor:#.2g}"
    )
    return f"{text}; {best.name} is better than {_join([_with_mean(one) for one in behind])}." if behind else f"{text}."


def _with_mean(contender: Contender) -> str:
    return f"{contender.name} with {contender.mean:.4f}"


def _join(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def verdict_markdown(verdict: Verdict) -> str:
    """The sentence, the contenders with what chance may give, and the notes."""
    leads = {lead.over: lead for lead in verdict.leads}
    rows = [["contender", "seeds", "mean", "interval", "behind the best", "noise"], ["---"] * 6]
    for one in verdict.contenders:
        interval = "" if one.low is None or one.high is None else f"{one.low:.4f} to {one.high:.4f}"
        lead = leads.get(one.group)
        behind = [f"{lead.lead:.4f}", f"{lead.margin:.4f}"] if lead else ["", ""]
        rows.append([one.name.replace("|", "\\|"), str(one.seeds), f"{one.mean:.4f}", interval, *behind])
    table = "".join("| " + " | ".join(row) + " |\n" for row in rows)
    return "\n\n".join([f"**{verdict.sentence}**", table.rstrip(), *verdict.notes]) + "\n"
