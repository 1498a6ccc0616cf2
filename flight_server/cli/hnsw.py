"""Commands about trials of index parameters: make an evaluation set, try, see what is best, make it live."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flight_server.cli.options import CLIENT, connected, listing, options, print_listing, stderr
from flight_server.cli.program import cli
from flight_server.cli.querying import call_with_progress

if TYPE_CHECKING:
    import pyarrow as pa

_RECALL = click.option(
    "--recall", type=float, default=0.99, show_default=True, help="What the recall has to be for sure."
)
_HEIGHT = 18


class _Numbers(click.ParamType[list[int]]):
    name = "n,n,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        try:
            return [int(each) for each in str(value).split(",")]
        except ValueError:
            self.fail(f"expected whole numbers with commas in between, found '{value}'", param, ctx)


@cli.group()
def hnsw() -> None:
    """Try parameters of vector indexes, measured against exact search, and make the best live."""


@hnsw.command()
@click.argument("index")
@click.option("--queries", type=int, help="How many; a tenth of the vectors, at most 500, when left out.")
@click.option("--k", type=int, default=10, show_default=True, help="Neighbours of each query.")
@click.option("--seed", type=int, default=0, help="Which are drawn.")
@click.option("--generated", is_flag=True, help="Questions that a model makes of texts of the table.")
@click.option("--model", default="", help="That model, one of ai.models; the default one when left out.")
@options(*CLIENT)
def autogen(
    index: str, queries: int | None, k: int, seed: int, generated: bool, model: str, **server: Any
) -> None:
    """Make an evaluation set: queries, with the neighbours that exact search finds."""
    body: dict[str, Any] = {"index": index, "k": k, "seed": seed, "queries": queries, "model": model}
    body["kind"] = "generated" if generated else "held_out"
    with connected(**server) as client:
        made = call_with_progress(client, "hnsw.evals.autogen", body)
    click.echo(
        f"{made['evaluation']}: {made['queries']:,} queries, {made['vectors']:,} vectors, k = {made['k']}"
    )


@hnsw.command()
@click.argument("index")
@click.option("--m", type=_Numbers(), help="Neighbours of a vector in the graph.")
@click.option("--ef-construction", type=_Numbers(), help="Efforts of building.")
@click.option("--ef-search", type=_Numbers(), help="Efforts of searching; growing ones when left out.")
@click.option("--storage", help="fp32, fp16, int8, with commas in between.")
@click.option("--max-trials", type=int, help="Most builds: what promises most is tried.")
@click.option("--max-seconds", type=float, help="Most seconds: likewise.")
@click.option("--again", is_flag=True, help="Measure what has been measured before once more.")
@_RECALL
@options(*CLIENT)
def trial(index: str, storage: str | None, again: bool, recall: float, **rest: Any) -> None:
    """Try a grid of parameters, or within a bound what promises most; what is known is not measured again."""
    names = ("m", "ef_construction", "ef_search", "max_trials", "max_seconds")
    body = {name: rest.pop(name) for name in names}
    body |= {
        "index": index,
        "storage": storage.split(",") if storage else None,
        "recall": recall,
        "again": again,
    }
    with connected(**rest) as client:
        done = call_with_progress(client, "hnsw.trial", {k: v for k, v in body.items() if v is not None})
    click.echo(
        f"{done['builds']} built, {done['measured']} measured, {done['known']} known: {done['reason']}"
    )
    if done["best"] is not None:
        click.echo(_said(done["best"]))


@hnsw.command()
@click.argument("index", required=False, default="")
@options(*CLIENT)
def trials(index: str, **server: Any) -> None:
    """List what was measured, of INDEX or of all that may be searched."""
    names = ("m", "ef construction", "ef search", "recall", "p50 µs", "p99 µs", "queries/s", "build s", "MB")
    table = listing("trial", "index", "storage", *names)
    for column in table.columns[3:]:
        column.justify = "right"
    with connected(**server) as client:
        rows = client.hnsw_trials(index).to_pylist()
    for row in rows:
        told = (row["m"], row["ef_construction"], row["ef_search"], f"{row['recall']:.4f}", row["p50_us"])
        size = row["index_bytes"]
        rest = (row["p99_us"], f"{row['queries_per_second']:,.0f}", row["build_seconds"])
        size = "" if size is None else f"{size / 1e6:,.1f}"
        table.add_row(row["trial"], row["index"], row["storage"], *map(str, (*told, *rest)), size)
    print_listing(table)


@hnsw.command()
@click.argument("index")
@_RECALL
@options(*CLIENT)
def best(index: str, recall: float, **server: Any) -> None:
    """Show the fastest parameters that reach a recall."""
    with connected(**server) as client:
        click.echo(_said(client.call("hnsw.best", {"index": index, "recall": recall})["best"]))


@hnsw.command()
@click.argument("index")
@click.option("--trial", default="", help="A trial of the index; the best one when left out.")
@_RECALL
@options(*CLIENT)
def promote(index: str, trial: str, recall: float, **server: Any) -> None:
    """Build INDEX with the parameters of a trial and make it live."""
    with connected(**server) as client:
        made = call_with_progress(client, "hnsw.promote", {"index": index, "trial": trial, "recall": recall})
    told = f"m {made['m']}, ef_construction {made['ef_construction']}, ef_search {made['ef_search']}"
    click.echo(f"{made['index']} {made['generation']}: {made['storage']}, {told}")


@hnsw.command()
@click.argument("index")
@click.option("--png", type=click.Path(path_type=Path, dir_okay=False), help="Write a picture to this file.")
@_RECALL
@options(*CLIENT)
def plot(index: str, png: Path | None, recall: float, **server: Any) -> None:
    """Draw recall against latency of what was tried with the newest evaluation set."""
    from flight_server.output.chart import Chart  # noqa: PLC0415

    with connected(**server) as client:
        made = client.call("hnsw.evals.list", {"index": index})["evaluations"]
        rows = _newest(client.hnsw_trials(index, made[-1]["evaluation"])) if made else []
        if not rows:
            raise click.ClickException(f"nothing of '{index}' was tried yet: lakehouse hnsw trial")
    fit = [row for row in rows if row["recall_low"] >= recall]
    chosen = min(fit, key=lambda row: float(row["p50_us"]), default=None)
    points = [(float(row["p50_us"]), float(row["recall"])) for row in rows]
    chart = Chart(
        f"{index}: recall@{rows[0]['k']} of {rows[0]['queries']:,} queries{_beside(rows)}",
        "median latency, microseconds",
        "recall",
        points,
        _front(points),
        (float(chosen["p50_us"]), float(chosen["recall"])) if chosen else None,
    )
    if png is None:
        click.echo(chart.text(min(120, shutil.get_terminal_size((100, 0)).columns), _HEIGHT))
        click.echo(_said(chosen) if chosen else f"nothing that was tried is sure to reach {recall:g}")
        return
    try:
        chart.save_png(png)
    except ImportError:
        raise click.ClickException("pictures need Pillow: pip install 'lakehouse-server[charts]'") from None
    stderr().print(f"{png}: {len(points)} trials", markup=False)


def _beside(trials: list[dict[str, Any]]) -> str:
    """What exact search takes, where the caller may know."""
    exact = sorted(row["exact_p50_us"] for row in trials if row["exact_p50_us"] is not None)
    return f" (exact search: {exact[len(exact) // 2]:,.0f} microseconds)" if exact else ""


def _newest(trials: pa.Table) -> list[dict[str, Any]]:
    """Of trials with the same parameters the newest."""
    names = ("storage", "m", "ef_construction", "ef_search")
    return list({tuple(row[name] for name in names): row for row in trials.to_pylist()}.values())


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for latency, recall in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or recall > found[-1][1]:
            found.append((latency, recall))
    return found


def _said(trial: dict[str, Any]) -> str:
    parameters = f"m {trial['m']}, ef_construction {trial['ef_construction']}, ef_search {trial['ef_search']}"
    found = f"recall {trial['recall']:.4f} (at least {trial['recall_low']:.4f})"
    return f"{trial['trial']}: {trial['storage']}, {parameters}: {found}, {trial['p50_us']:g} µs"
