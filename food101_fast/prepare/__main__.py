"""`python -m food101_fast.prepare`: write shards, then say what was written and what was dropped."""

from __future__ import annotations

from collections.abc import Sequence

from food101_fast.cli import exit_with


def main(argv: Sequence[str]) -> None:
    """Run the command on `argv`."""
    # Here, since worker processes import this module too, and so that Ctrl-C works from the first moment.
    import orjson

    from food101_fast.cli import parse
    from food101_fast.prepare.command import GROUPS, PrepareCommand, described, hide_bars_of_the_hub, prepared
    from food101_fast.prepare.job import digest_of, prepare
    from food101_fast.progress import shown
    from food101_fast.terminal import show

    command = parse(PrepareCommand, "prepare", argv, groups=GROUPS)
    if command.output.quiet:
        hide_bars_of_the_hub()
    out = command.prepare.out
    before = digest_of(out)
    with shown(command.output):
        manifest = prepare(command.prepare)
    result = prepared(manifest, out, changed=manifest.digest != before)
    if command.output.json:
        print(orjson.dumps(result).decode())
    else:
        show(described(result))


if __name__ == "__main__":
    exit_with(main)
