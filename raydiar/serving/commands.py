"""`raydiar serve …`: thin, and quick to import."""

import logging
import os
import signal
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raydiar.errors import ConfigError, ServerFailed

if TYPE_CHECKING:
    from raydiar.serving.settings import ServeSettings
    from raydiar.serving.storage.keys import KeyRing

APPLICATION = "raydiar"

app = typer.Typer(help="Serve the REST interface, on this machine.")
keys = typer.Typer(help="Say who may use the server.", no_args_is_help=True)
app.add_typer(keys, name="keys")

DatabaseOption = Annotated[
    str | None,
    typer.Option(help="SQLAlchemy URL of the server's database.", envvar="RAYDIAR_DATABASE"),
]


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration file of Ray Serve; options here win.")
    ] = None,
    database: DatabaseOption = None,
    media: Annotated[str | None, typer.Option(help="Folder or URI of uploads.")] = None,
    index: Annotated[
        str | None, typer.Option(help="Voiceprint index to search, a folder or URI.")
    ] = None,
    pipeline: Annotated[
        str | None,
        typer.Option(help="Hub repository, directory, config, exact or soft; default embedded."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cuda or cpu.")] = None,
    no_keys: Annotated[
        bool | None,
        typer.Option("--no-keys", help="Start for this machine though all keys are revoked."),
    ] = None,
) -> None:
    """Serve until Ctrl-C. Everything has a default: open the address that is printed."""
    if context.invoked_subcommand is not None:
        return
    http, settings = _configured(config)
    http |= _given(host=host, port=port)
    settings |= _given(
        database=database,
        media=media,
        index=index,
        pipeline=pipeline,
        device=device,
        no_keys=no_keys,
    )
    _run(http, _settings(settings))


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")], database: DatabaseOption = None
) -> None:
    """Make a key; it is shown once."""
    key_id, secret = _keys(database).create(name)
    typer.echo(f"{secret}\nThis is the only time it is shown. Its id is {key_id}.")


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")],
    database: DatabaseOption = None,
) -> None:
    """Refuse a key from now on."""
    if not _keys(database).revoke(key_id):
        raise ConfigError(f"there is no key {key_id} that works: see `raydiar serve keys list`")
    typer.echo(f"{key_id} is refused from now on")


@keys.command("webhook-secret")
def webhook_secret(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `keys list` shows it.")],
    rotate: Annotated[bool, typer.Option(help="Make another one.")] = False,
    database: DatabaseOption = None,
) -> None:
    """Show what signs the webhooks of a key's jobs."""
    from raydiar.serving.storage.secrets import WebhookSecrets

    ring = _keys(database)
    if key_id not in {key.key_id for key in ring.list()}:
        raise ConfigError(f"there is no key {key_id}: see `raydiar serve keys list`")
    secrets = WebhookSecrets(ring.database, {})
    typer.echo(secrets.rotate(key_id) if rotate else secrets.of(key_id))


@keys.command("list")
def list_keys(database: DatabaseOption = None) -> None:
    """List all keys, without their secrets."""
    for key in _keys(database).list():
        created = "environment" if key.created_at is None else _date(key.created_at)
        revoked = "" if key.revoked_at is None else f"  revoked {_date(key.revoked_at)}"
        typer.echo(f"{key.key_id}  {created}  {key.name}{revoked}")


def _run(http: dict[str, Any], settings: "ServeSettings") -> None:
    from ray import serve as ray_serve

    from raydiar.corpus.job.placement import connected
    from raydiar.serving.app import build
    from raydiar.serving.deployments.placement import check_keys, completed, default_url

    settings = completed(settings)
    check_keys(settings, http.get("host", "127.0.0.1"))  # at once, not half a minute later
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # ten looks a second at its replicas, Serve's default, keep its controller busy all the time
    os.environ.setdefault("RAY_SERVE_CONTROL_LOOP_INTERVAL_S", "0.5")
    stopped = threading.Event()
    with connected():
        typer.echo("starting, in half a minute or so; weights are fetched the first time")
        ray_serve.start(http_options=http)
        try:
            _deploy(build(settings))
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: stopped.set())
            url = settings.public_url or default_url()
            typer.echo(f"raydiar serves on {url}  (Ctrl-C ends it)")
            while not stopped.wait(1.0):
                pass
            typer.echo("stopping: jobs under way go back to the queue")
        finally:
            ray_serve.shutdown()


def _deploy(application: Any) -> None:
    from ray import serve as ray_serve

    try:
        ray_serve.run(application, name=APPLICATION)
    except RuntimeError as error:
        deployments = ray_serve.status().applications[APPLICATION].deployments
        reasons = [f"{name}: {found.message}" for name, found in deployments.items()]
        told = "\n".join(reason for reason in reasons if not reason.endswith(": "))
        raise ServerFailed(f"the server did not start\n{told or error}") from error


def _configured(path: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """HTTP options and settings of a configuration file of Ray Serve."""
    if path is None:
        return {}, {}
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    try:
        [application] = document["applications"]
        return dict(document.get("http_options") or {}), dict(application.get("args") or {})
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path} is no configuration of Ray Serve with one application: see cluster/serve.yaml"
        ) from error


def _settings(values: Mapping[str, Any]) -> "ServeSettings":
    from pydantic import ValidationError

    from raydiar.serving.settings import ServeSettings

    try:
        return ServeSettings(**values)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError("settings that make no sense: " + "; ".join(wrong)) from error


def _keys(database: str | None) -> "KeyRing":
    from raydiar.serving.storage.database import open_database
    from raydiar.serving.storage.keys import KeyRing

    return KeyRing(open_database(_settings(_given(database=database)).database))


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
