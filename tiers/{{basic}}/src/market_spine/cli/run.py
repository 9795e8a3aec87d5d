"""spine run, spine pipelines: submit work, and see what can be submitted."""

from typing import Annotated

import typer

from market_spine.cli._output import AsJson, print_json, print_rows, progress_shown


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("run")(run)
    app.command("pipelines")(list_pipelines)


def run(
    pipeline: Annotated[str, typer.Argument(help="See `spine pipelines`.")],
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="name=value, once for each.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Follow it to its end, whoever does the work.")] = True,
    as_json: AsJson = False,
) -> None:
    """Submit a pipeline; exit with 1 if it does not succeed."""
    from market_spine import dispatcher
    from market_spine.cli._follow import follow, report

    with progress_shown():
        execution = dispatcher.submit(pipeline, _params(param or []), trigger_source="cli")
        if wait:
            execution = follow(execution)
    report(execution, as_json=as_json)


def _params(given: list[str]) -> dict[str, str]:
    from market_spine.errors import RequestError

    params: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise RequestError(f"--param {text}: write it as name=value")
        if name in params:
            raise RequestError(f"--param {name}: given twice")
        params[name] = value
    return params


def list_pipelines(as_json: AsJson = False) -> None:
    """List the pipelines and their params."""
    from market_spine import pipelines
    from market_spine.errors import RequestError

    rows = []
    for name in pipelines.names():
        try:
            found = pipelines.find(name)
        except RequestError as error:
            rows.append({"name": name, "params": [], "description": f"BROKEN: {error}"})
            continue
        fields = found.params.model_fields
        params = [f"{f}{'*' if info.is_required() else ''}" for f, info in fields.items()]
        rows.append({"name": name, "params": params, "description": found.description})
    if as_json:
        print_json(rows)
        return
    shown = [{**row, "params": ", ".join(row["params"])} for row in rows]
    headings = {"name": "pipeline", "params": "params (* needed)", "description": "what it does"}
    print_rows(shown, headings, as_json=False, empty="There are no pipelines.")
