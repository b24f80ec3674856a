"""The command line. `main` stands here so that the installed `gigagan` script imports little."""


def main() -> None:
    """Run `gigagan` with the arguments of the process."""
    from gigagan_core.cli.app import app

    app(prog_name="gigagan")
