"""Motion priors from a video diffusion model for a vision-language model, here or on a Kubeflow cluster."""

from __future__ import annotations

import logging

import typer

from components.cli import build, cluster, one_step, run, store, transfer
from components.cli.options import PipelineCommand
from components.core.errors import MotionEnhancerError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

# the groups of `--help`, in this order
PRIORS, LOOK, KEEP, CLUSTER = "Make priors, tune a model", "Look", "Move and keep", "On a cluster"
app.command(rich_help_panel=PRIORS)(run.synthesize)
app.command(rich_help_panel=PRIORS, cls=PipelineCommand)(run.plan)
app.command(rich_help_panel=PRIORS, cls=PipelineCommand)(run.run)
app.command(rich_help_panel=PRIORS)(one_step.step)
app.command(rich_help_panel=LOOK)(run.look)
app.command(rich_help_panel=KEEP)(transfer.export)
app.command("import", rich_help_panel=KEEP)(transfer.import_)
app.command(rich_help_panel=KEEP)(transfer.inspect)
app.add_typer(store.app, name="store", rich_help_panel=KEEP)
app.add_typer(transfer.models, name="models", rich_help_panel=KEEP)
app.command("compile", rich_help_panel=CLUSTER)(build.compile_)
for command in cluster.COMMANDS:
    app.command(rich_help_panel=CLUSTER)(command)
app.add_typer(build.images_app, name="images", rich_help_panel=CLUSTER)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: expected errors end with their own exit code and no traceback."""
    logging.basicConfig(level="WARNING", format="%(levelname)s %(message)s")
    logging.getLogger("components").setLevel("INFO")
    try:
        app(arguments)
    except MotionEnhancerError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_code) from None
