"""What a person sees of a run: a bar with the time left, plain lines in a log, the final table."""

import time

from .execution import Result

NAMES = {"tensorflow": "Keras", "pytorch": "PyTorch"}


class Lines:
    """One line when a notebook starts and one when it ends, for logs."""

    def __init__(self, total: int):
        self.total, self.done, self.started = total, 0, time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        return None

    def begin(self, notebook: str, framework: str) -> None:
        """Name the notebook that starts."""
        place = f"[{self.done + 1}/{self.total}]"
        print(f"{place} {notebook} ({NAMES[framework]}) …", flush=True)

    def cell_done(self, share: float) -> None:
        """Cells are too many for a log."""

    def end(self, result: Result) -> None:
        """Say how it ended and how long the rest may take."""
        self.done += 1
        seconds = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        left = f"; about {_duration(seconds)} left" if self.done < self.total else ""
        error = f": {result.error}" if result.error else ""
        print(f"      {result.status} in {result.seconds:.0f} s{error}{left}", flush=True)


class Bar:
    """A progress bar over all notebooks with the time left, for a terminal."""

    def __init__(self, total: int):
        from rich import progress

        self.bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.TextColumn("{task.fields[place]}"),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            # Cells take from milliseconds to a minute: only the whole run gives a speed.
            speed_estimate_period=24 * 3600,
        )
        self.total, self.done = total, 0
        self.task = self.bar.add_task("", total=total, place="")

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *exception):
        self.bar.stop()

    def begin(self, notebook: str, framework: str) -> None:
        """Name the notebook that runs."""
        place = f"{self.done + 1} of {self.total}"
        self.bar.update(self.task, description=f"{notebook} ({NAMES[framework]})", place=place)

    def cell_done(self, share: float) -> None:
        """Move the bar within the current notebook."""
        self.bar.update(self.task, completed=self.done + share)

    def end(self, result: Result) -> None:
        """Move past the notebook; a problem stays on the screen above the bar."""
        self.done += 1
        self.bar.update(self.task, completed=self.done)
        if result.error:
            from rich.markup import escape

            where = f"{result.notebook} ({NAMES[result.framework]})"
            self.bar.print(f"[red]{result.status}[/red] {where}: {escape(result.error)}")


def watch(total: int):
    """Return a bar for a terminal, lines for anything else; use it in a with statement."""
    from rich.console import Console

    return Bar(total) if Console().is_terminal else Lines(total)


def table(results: list[Result]):
    """Return the final table: seconds, peak memory and claims of each notebook."""
    from rich.table import Table

    rows = Table(title=f"{sum(r.status == 'ok' for r in results)} of {len(results)} notebooks ok")
    for heading in ("notebook", "framework"):
        rows.add_column(heading, no_wrap=True)
    for heading in ("seconds", "peak MB", "claims held"):
        rows.add_column(heading, justify="right")
    rows.add_column("status", no_wrap=True)
    for result in results:
        style = None if result.status == "ok" else "bold red"
        rows.add_row(
            result.notebook,
            NAMES[result.framework],
            f"{result.seconds:.1f}",
            f"{result.peak_memory_mb:,.0f}",
            claims_held(result),
            result.status,
            style=style,
        )
    return rows


def claims_held(result: Result) -> str:
    """Return "held/total", and how many were untested (all of them in smoke)."""
    held = sum(made["holds"] is True for made in result.claims)
    untested = sum(made["holds"] is None for made in result.claims)
    note = f" ({untested} untested)" if untested else ""
    return f"{held}/{len(result.claims)}{note}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
