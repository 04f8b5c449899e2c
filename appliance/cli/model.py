"""`appliance model ...`"""

from __future__ import annotations

from typing import Any

import click

from appliance.cli.connection import Connection, segment
from appliance.cli.errors import CommandFailed
from appliance.cli.model_content import add_content_commands
from appliance.cli.options import client_command, confirm, given, limit_option, require_change, yes_option
from appliance.cli.output import show_done, show_list, show_object
from appliance.cli.resources import Kind, add_delete, add_show
from appliance.cli.sizes import readable

KIND = Kind(
    "model",
    "models",
    (
        ("NAME", "name"),
        ("TASK", "task_type"),
        ("FRAMEWORK", "framework"),
        ("DEFAULT VERSION", "default_version"),
        ("SHARED", "shared"),
        ("ID", "id"),
    ),
)
VERSION_COLUMNS = (
    ("NAME", "name"),
    ("KIND", "kind"),
    ("STATE", "state"),
    ("CURRENT", "current"),
    ("SIZE", "size"),
    ("REASON", "error.detail"),
    ("ID", "id"),
)
FILE_COLUMNS = (("PATH", "path"), ("SIZE", "size"), ("SHA-256", "sha256"))


@click.group(help="Models, their versions and files.")
def model() -> None: ...


@model.command("list")
@click.option("--task-type", help="only models for this task, such as text-generation")
@click.option("--framework", help="only models of this framework, such as transformers")
@limit_option
@client_command
def list_(connection: Connection, *, as_json: bool, limit: int | None, **filters: str | None) -> None:
    """List the tenant's models and the shared ones, newest first."""
    show_list(connection.pages(KIND.path, limit=limit, **filters), KIND.columns, as_json=as_json)


add_show(model, KIND, "Show one model.")


@model.command("create")
@click.argument("name")
@click.option("--description", help="what it is")
@click.option("--task-type", help="such as text-generation [default: what is detected]")
@click.option("--framework", help="such as transformers [default: what is detected]")
@click.option("--shared", is_flag=True, default=None, help="for every tenant; administrators only")
@client_command
def create(name: str, connection: Connection, *, as_json: bool, **members: Any) -> None:
    """Create the model NAME without content; `upload` and `import` do so themselves."""
    show_object(connection.create(KIND.path, given(name=name, **members)), as_json=as_json)


add_content_commands(model)


@model.command("versions")
@click.argument("name")
@limit_option
@client_command
def versions(name: str, connection: Connection, *, as_json: bool, limit: int | None) -> None:
    """List a model's versions, newest first."""
    items = connection.pages(f"{KIND.one(name)}/versions", limit=limit)
    show_list(items if as_json else map(_version_row, items), VERSION_COLUMNS, as_json=as_json)


def _version_row(item: dict[str, Any]) -> dict[str, Any]:
    return item | {"size": readable(item["total_bytes"])}


@model.command("files")
@click.argument("name")
@click.option("--model-version", "version", help="branch or tag [default: the model's default version]")
@client_command
def files(name: str, connection: Connection, *, as_json: bool, version: str | None) -> None:
    """List the files of a version with lengths and SHA-256."""
    chosen = version or _default_version(connection, name)
    items = connection.get(f"{KIND.one(name)}/versions/{segment(chosen)}/files")
    shown = items if as_json else [item | {"size": readable(item["size"])} for item in items]
    show_list(shown, FILE_COLUMNS, as_json=as_json)


def _default_version(connection: Connection, name: str) -> str:
    found: str | None = connection.get(KIND.one(name))["default_version"]
    if found is None:
        raise CommandFailed(f"model {name} has no default version: say which with --model-version")
    return found


@model.command("estimate")
@click.argument("name")
@click.option("--model-version", "version", help="branch or tag [default: the model's default version]")
@click.option("--context", type=int, required=True, help="tokens of one request and its answer")
@click.option("--concurrency", type=int, help="requests at the same time [default: 1]")
@click.option("--devices", type=int, help="over which the model is split [default: 1]")
@click.option("--cache", type=click.Choice(["auto", "fp8"]), help="precision of the cache of keys and values")
@click.option("--runtime", help="whose engines' reports of the model's family correct the estimate")
@click.option("--weight-bytes", type=int, help="on one device, where the files do not tell")
@click.option("--kv-bytes-per-token", type=int, help="of one device, where the files do not tell")
@client_command
def estimate(name: str, connection: Connection, *, as_json: bool, version: str | None, **members: Any) -> None:
    """Estimate the memory that a replica takes on each of its devices, and where it cannot run."""
    chosen = version or _default_version(connection, name)
    told = connection.get(f"{KIND.one(name)}/versions/{segment(chosen)}/estimate", **given(**members))
    shown = told if as_json else {member: _readable(member, value) for member, value in told.items()}
    show_object(shown, as_json=as_json)


def _readable(member: str, value: Any) -> Any:
    if member == "guide":
        return value["text"]
    return readable(value) if member.endswith("_bytes") else value


@model.command("tag")
@click.argument("name")
@click.argument("tag_name", metavar="TAG")
@click.option("--model-version", "version", help="what is tagged [default: the model's default version]")
@client_command
def tag(name: str, tag_name: str, connection: Connection, *, as_json: bool, version: str | None) -> None:
    """Give what a version holds now the further name TAG, which never changes."""
    chosen = version or _default_version(connection, name)
    path = f"{KIND.one(name)}/versions/{segment(chosen)}/tags"
    show_object(connection.create(path, {"name": tag_name}), as_json=as_json)


@model.command("update")
@click.argument("name")
@click.option("--description", help="what it is")
@click.option("--task-type", help="such as text-generation; wins over what is detected")
@click.option("--framework", help="such as transformers; wins over what is detected")
@click.option("--default-version", help="the branch or tag that services use unless told otherwise")
@client_command
def update(name: str, connection: Connection, *, as_json: bool, **members: Any) -> None:
    """Describe a model anew, or choose its default version."""
    show_object(connection.patch(KIND.one(name), require_change(given(**members))), as_json=as_json)


add_delete(model, KIND, "Delete a model with all its versions; refused while a service uses one.")


@model.command("delete-version")
@click.argument("name")
@click.argument("version")
@yes_option
@client_command
def delete_version(name: str, version: str, connection: Connection, *, as_json: bool, yes: bool) -> None:
    """Delete a version, or stop its import; refused while a service uses it."""
    confirm(f"Delete version {version} of model {name}?", yes=yes)
    connection.delete(f"{KIND.one(name)}/versions/{segment(version)}")
    show_done("version", f"{name}/{version}", "deleted", as_json=as_json)
