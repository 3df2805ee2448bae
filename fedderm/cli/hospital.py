"""What ``fedderm site`` does: a hospital's policy, approvals and log in plain words."""

from pathlib import Path

from fedderm.cli.terminal import output, plain_table
from fedderm.hospital.log_totals import Total, in_bytes, totals
from fedderm.hospital.memory import SHOWN
from fedderm.hospital.policy import policy_in_words
from fedderm.hospital.record import Record
from fedderm.site_file import read_policy, read_site_file
from sites.words import counted


def tell_policy(site_file: Path) -> None:
    """Print what the site file lets out, a sentence a line."""
    site, policy = read_site_file(site_file), read_policy(site_file)
    for sentence in policy_in_words(policy, site.name, site.role, site.min_cell):
        output().print(sentence)


def list_pending(site_file: Path) -> None:
    """Print the runs that a person has not said yes to, in the order in which they asked."""
    out = output()
    read_policy(site_file)  # a file that is wrong is told here, not by an empty list
    requests = Record.of(site_file).memory.read().requests
    waiting = {digest: one for digest, one in requests.items() if one.pending}
    if not waiting:
        out.print("No run waits for your yes.")
    for digest, request in sorted(waiting.items(), key=lambda item: item[1].asked):
        out.print(f"{digest[:SHOWN]}  asked {request.asked:%Y-%m-%d %H:%M} UTC", style="bold")
        for sentence in request.words:
            out.print(f"  {sentence}")
        out.print(f"  Say yes with: fedderm site approve {site_file} {digest[:SHOWN]}")


def approve(site_file: Path, name: str) -> None:
    """Say yes to the run whose id begins with ``name``."""
    digest, request = Record.of(site_file).approve(name)
    output().print(
        f"{request.experiment} {digest[:SHOWN]} may begin, or go on, once; tell the coordinator to start or "
        "resume it"
    )


def withdraw(site_file: Path, name: str) -> None:
    """Take every yes to the run whose id begins with ``name`` back."""
    digest, request = Record.of(site_file).withdraw(name)
    output().print(f"{request.experiment} {digest[:SHOWN]} is answered no more.")


def check_log(site_file: Path, noted: str | None) -> None:
    """Print that the log is whole; raises LogBroken, naming the first broken line, where it is not."""
    read_policy(site_file)
    found = Record.of(site_file).log.check(noted)
    if not found.entries:
        output().print("The log is empty: nothing has left.")
        return
    output().print(f"The log is whole: {counted(found.entries, 'line')}, the last with the hash {found.hash}")
    output().print(
        "Note that hash elsewhere: with --noted HASH it tells later whether the log was written anew."
    )
    if found.interrupted:
        output().print("The machine stopped while it wrote the last line: that answer may not have left.")


def show_log(site_file: Path) -> None:
    """Print what left by day and by run, and what the server was told in place of answers."""
    found, out = totals(Record.of(site_file).log.entries()), output()
    for title, parts in (("day (UTC)", found.days), ("run", found.runs)):
        if parts:
            out.print()
            _print(title, parts)
    if found.told:
        out.print()
        out.print("In place of answers the server was told (what is in brackets stayed here):")
    for sentence in found.told:
        out.print(f"  {sentence}")


def _print(title: str, parts: list[Total]) -> None:
    numbers = ("bytes", "refused", "failed")
    table = plain_table(title, "answers that left", *numbers, folding=title, numbers=numbers)
    for one in parts:
        table.add_row(one.title, one.answers(), in_bytes(one.bytes), str(one.refused), str(one.failed))
    output().print(table)
